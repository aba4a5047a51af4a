"""The next night's publish from a home with an empty disk, and from the home that did the one before, of one run.

    python benchmarks/empty_home.py [--keys 1000000] [--share 0.01]

Both publish the same new as-of date, in which a share of the scores differs, to remotes with equal content. Prints
processor seconds, and the bytes that were fetched from and pushed to the remote. Writes no result.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))
from store_tables import NEXT_NIGHT, NIGHT, append, churn, predictions  # noqa: E402 - found through the line above

from forecache.base.folders import LocalFolder  # noqa: E402
from forecache.base.settings import Settings, load_settings  # noqa: E402
from forecache.serve.store import publish  # noqa: E402


def publish_once(home: str, lake: str, remote: str) -> dict[str, Any]:
    """Publish in this process; returns figures of it."""
    fetched = Counter[str]()
    read_range, chunks = LocalFolder.read_range, LocalFolder.chunks

    def count_range(self: LocalFolder, *arguments: Any) -> bytes:
        content = read_range(self, *arguments)
        fetched.update(requests=1, bytes=len(content))
        return content

    def count_chunks(self: LocalFolder, *arguments: Any) -> Iterator[bytes]:
        fetched.update(requests=1)
        for chunk in chunks(self, *arguments):
            fetched.update(bytes=len(chunk))
            yield chunk

    LocalFolder.read_range, LocalFolder.chunks = count_range, count_chunks  # type: ignore[method-assign]
    settings = load_settings(home=home, lake=lake, store_remote=remote)
    before, began = _cpu_s(), time.perf_counter()
    done = publish(settings, churn()).details
    return {
        "version": done["version"],
        "kind": done["kind"],
        "changed": done["changed"],
        "cpu_s": round(_cpu_s() - before, 2),
        "wall_s": round(time.perf_counter() - began, 2),
        "fetched_bytes": fetched["bytes"],
        "fetch_requests": fetched["requests"],
        "pushed_bytes": done["targets"]["remote"]["bytes"],
        "size_bytes": done["size_bytes"],
    }


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def write_rows(settings: Settings, keys: int, share: float) -> None:
    """Two as-of dates, of which the second differs in a share of the rows."""
    values = np.random.default_rng(0).random(keys).round(6)
    append(settings, predictions(dict(zip(_names(keys), values.tolist(), strict=True))))
    values[:: max(1, round(1 / share))] /= 2
    append(settings, predictions(dict(zip(_names(keys), values.tolist(), strict=True)), night=NEXT_NIGHT))


def _names(keys: int) -> list[str]:
    return [f"{number:08d}" for number in range(keys)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--publish", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.publish:
        print(json.dumps(publish_once(*arguments.publish)))
        return 0
    with tempfile.TemporaryDirectory(prefix="forecache-empty-home-") as folder:
        root = Path(folder)
        settings = load_settings(home=root / "home", lake=str(root / "lake"), store_remote=str(root / "remote"))
        write_rows(settings, arguments.keys, arguments.share)
        publish(settings, churn(), night=NIGHT)
        results = {}
        for name in ("the same home", "an empty home") * 3:
            home = root / f"home of {name}"
            for source, target in ((root / "home", home), (root / "remote", root / "remote of it")):
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(source, target)
            if name == "an empty home":
                shutil.rmtree(home)
            command = [sys.executable, __file__, "--publish", str(home), str(root / "lake"), str(root / "remote of it")]
            done = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            if name not in results or done["cpu_s"] < results[name]["cpu_s"]:
                results[name] = done
    ratio = results["an empty home"]["cpu_s"] / results["the same home"]["cpu_s"]
    print(json.dumps({"keys": arguments.keys, **results, "cpu_ratio": round(ratio, 2)}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
