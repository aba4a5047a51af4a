"""A new replica's first answers: a reader and a pull that start together on an empty disk, with a bucket far away.

    python benchmarks/new_replica.py [--gigabytes 1 5] [--latency-ms 100] [--megabytes-per-s 50]

The bucket is MinIO (`make services`) behind a proxy that delays each request and limits all bytes together. The version
has a base with entries of a kilobyte, and two deltas. One client asks for random keys, one after the other, from the
start of the two processes until the pull has ended. Prints the time to the first answer, also from when the reader
listened, percentiles of the answers, how many were 503 after the first, and how long the pull took. Writes no result.
"""

import argparse
import http.client
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))
from fault_proxy import Distance, fault_proxy  # noqa: E402 - found through the line above
from reader_support import MODEL, STRING_KEY, start_reader, yesterday  # noqa: E402
from store_services import minio_server  # noqa: E402

from forecache.base.folders import BucketFolder  # noqa: E402
from forecache.base.settings import load_settings  # noqa: E402
from forecache.serve.store import Field, Manifest, Pointer, SegmentInfo, open_remote  # noqa: E402
from forecache.serve.store.integrity import version_files  # noqa: E402
from forecache.serve.store.layout import StoreLayout, remove_tree, shard_file  # noqa: E402
from forecache.serve.store.manifest import StalePolicy, TableSource, current_timestamp  # noqa: E402
from forecache.serve.store.remote import create_manifest  # noqa: E402
from forecache.serve.store.segment.index import key_hashes, write_filter, write_hashes  # noqa: E402
from forecache.serve.store.segment.writer import write_shard  # noqa: E402

ENTRY_BYTES, SHARD_KEYS, CHANGED = 1000, 65_536, 0.01
_PULL = """
import json, sys
from forecache.base.settings import load_settings
from forecache.serve.store import open_remote, open_store, pull
settings = load_settings(**json.loads(sys.argv[1]))
pull(open_store(settings, "churn"), open_remote(settings.store_remote, settings.storage_options))
"""


def name_of(number: int) -> str:
    return f"{number:09d}"


def write_segment(layout: StoreLayout, kind: str, name: str, numbers: np.ndarray, remote: BucketFolder) -> SegmentInfo:
    """Write a segment shard by shard, and leave only a delta's hashes here."""
    layout.create()
    folder = layout.segment(name)
    folder.mkdir()
    shards = 1
    while shards * SHARD_KEYS < len(numbers):
        shards *= 2
    texts = [name_of(number).encode() for number in numbers.tolist()]
    hashes = key_hashes(texts)
    shard_of, infos = hashes & np.uint64(shards - 1), []
    for shard in range(shards):
        keys = [texts[at] for at in np.flatnonzero(shard_of == shard).tolist()]
        values = [entry_of(key, kind) for key in keys]
        path = folder / shard_file(shard)
        infos.append(
            write_shard(path, pa.array(keys, pa.binary()), pa.array(values, pa.binary()), indexed=kind == "base")
        )
        remote.upload(path, f"churn/segments/{name}/{path.name}")
        path.unlink()
    found = None if kind == "base" else write_hashes(folder, hashes)
    if found is not None:
        remote.upload(folder / found.file, f"churn/segments/{name}/{found.file}")
    return SegmentInfo(name, kind, len(numbers), 0, tuple(infos), found)


def entry_of(key: bytes, kind: str) -> bytes:
    return b'{"score":"%s %s %s"}' % (key, kind.encode(), random.Random(key).randbytes(ENTRY_BYTES // 2).hex().encode())


def write_store(home: Path, remote: BucketFolder, gigabytes: float) -> tuple[Manifest, np.ndarray]:
    """Write a version into the remote; its manifest, and the numbers of the keys that the deltas have."""
    count = int(gigabytes * 1e9 / ENTRY_BYTES / 1.05)
    layout = StoreLayout(home / "churn")
    changed = np.random.default_rng(0).choice(count, int(count * CHANGED), replace=False)
    parts = np.array_split(changed, 2)
    segments = [write_segment(layout, "base", "00000001-base-0", np.arange(count), remote)]
    segments += [
        write_segment(layout, "delta", f"0000000{n + 2}-delta-0", part, remote) for n, part in enumerate(parts)
    ]
    manifest = Manifest(
        pipeline="churn", store="0123", version=3, parent=None, kind="incremental", segments=tuple(segments),
        rows=count, tombstones=0, content_hash="0" * 32, key=STRING_KEY, fields=(Field("score", "string"),),
        source=TableSource("predictions_churn", "memory:churn", 3, yesterday()), provenance=MODEL,
        policy=StalePolicy(36.0, "flag"), published_at=current_timestamp(), code_version="x", run_id="x", inputs="x",
        filter=write_filter(layout, 3, segments[1:]),
    )  # fmt: skip
    for path, file, _ in version_files(layout, manifest):
        if path.exists() and remote.size(f"churn/{file}") is None:
            remote.upload(path, f"churn/{file}")
    create_manifest(remote, manifest)
    pointer = Pointer(store="0123", current=3, last=3, versions={"3": 0.0}).advance()
    remote.swap("churn/CURRENT", pointer.to_json(), None)
    remove_tree(layout.root)
    return manifest, changed


def measure(replica: dict[str, Any], manifest: Manifest, changed: set[int]) -> dict[str, Any]:
    """Start a reader and a pull, and ask until the pull has ended and both workers answer from the disk."""
    dice, began = random.Random(0), time.perf_counter()
    reader = start_reader(load_settings(home=replica["home"]), wait=False, reader_workers=2, **replica)
    pull = subprocess.Popen([sys.executable, "-c", _PULL, json.dumps(replica)])
    first_s = ready_s = up_s = pulled_s = None
    cpu_s = 0.0
    answers, num_refused = list[float](), 0
    try:
        while pulled_s is None:
            number = dice.randrange(manifest.rows)
            asked = time.perf_counter()
            status, body = ask(reader.port, f"/v1/churn/{name_of(number)}")
            took = time.perf_counter() - asked
            up_s = up_s or (time.perf_counter() - began if status else None)
            if status == 200:
                key = name_of(number).encode()
                value = entry_of(key, "delta" if number in changed else "base")
                assert b'"value":' + value in body, (number, body[:100])
                if first_s is None:
                    first_s, cpu_s = time.perf_counter() - began, cpu_seconds([reader.process.pid, *reader.workers()])
                answers.append(took)
            else:
                assert status in (0, 503), (status, body)
                num_refused += first_s is not None
            if ready_s is None and first_s is not None and ask(reader.port, "/readyz")[0] == 200:
                ready_s = time.perf_counter() - began
            if pull.poll() is not None:
                assert pull.returncode == 0
                pulled_s = time.perf_counter() - began
            time.sleep(0.02 if first_s is None else 0.1)
    finally:
        pull.kill()
        reader.stop()
    assert first_s is not None
    assert up_s is not None
    assert ready_s is not None
    return {
        "size_gb": round(manifest.size_bytes / 1e9, 2),
        "keys": manifest.rows,
        "reader_up_s": round(up_s, 2),
        "first_answer_s": round(first_s, 2),
        "first_answer_after_up_s": round(first_s - up_s, 2),
        "reader_cpu_until_then_s": round(cpu_s, 2),
        "ready_s": round(ready_s, 2),
        "answers": len(answers),
        "refused_after_the_first": num_refused,
        "p50_ms": round(float(np.percentile(answers, 50)) * 1e3, 1),
        "p99_ms": round(float(np.percentile(answers, 99)) * 1e3, 1),
        "slowest_ms": round(max(answers) * 1e3, 1),
        "pull_s": round(pulled_s, 1),
        "load_average": os.getloadavg()[0],
    }


def cpu_seconds(processes: list[int]) -> float:
    """The processor time of processes since their starts."""
    texts = [Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split() for process in processes]
    return sum(int(text[11]) + int(text[12]) for text in texts) / os.sysconf("SC_CLK_TCK")


def ask(port: int, path: str) -> tuple[int, bytes]:
    """(status, body) of a request; status 0 while nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        found = connection.getresponse()
        return found.status, found.read()
    except ConnectionError:
        return 0, b""
    finally:
        connection.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1.0, 5.0])
    parser.add_argument("--latency-ms", type=float, default=100.0)
    parser.add_argument("--megabytes-per-s", type=float, default=50.0)
    arguments = parser.parse_args()
    distance = Distance(arguments.latency_ms / 1e3, arguments.megabytes_per_s * 1e6)
    for gigabytes in arguments.gigabytes:
        with tempfile.TemporaryDirectory(prefix="forecache-new-replica-") as name:
            folder = Path(name)
            with minio_server(folder / "minio", "far") as options:
                remote = open_remote("s3://far/store", options)
                assert isinstance(remote, BucketFolder)
                manifest, changed = write_store(folder / "publisher", remote, gigabytes)
                with fault_proxy(options["AWS_ENDPOINT_URL"], distance=distance) as proxy:
                    there = {**options, "AWS_ENDPOINT_URL": proxy.address}
                    replica = {
                        "home": str(folder / "replica"),
                        "store_remote": "s3://far/store",
                        "storage_options": there,
                    }
                    print(json.dumps(measure(replica, manifest, set(changed.tolist()))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
