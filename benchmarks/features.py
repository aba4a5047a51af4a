"""`make bench-features`: what a month of nights of windowed features costs, from day tiles and two other ways.

python benchmarks/features.py                        50 million events over 61 days, 31 nights, on two cores
python benchmarks/features.py --events 1000000       fewer
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from _common import machine
from _common.rows import text_table

ROOT = Path(__file__).resolve().parent.parent
RUNS = (
    ("day tiles", "all"),
    ("a free function", "all"),
    ("Spark's window functions", "all"),
    ("day tiles", "each"),
    ("a free function", "each"),
)
HOW = {"all": "all nights in one run", "each": "night after night"}


def measure(way: str, how: str, *, landed: Path, work: Path, nights: int, days: int) -> dict[str, Any]:
    """A way in a process of its own, over a copy of what landed."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(landed, work)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT)])}
    command = [sys.executable, "-m", "_features.job", str(work), way, str(nights), str(days), how]
    done = subprocess.run(command, cwd=ROOT / "benchmarks", env=environment, stdout=subprocess.PIPE, check=False)
    shutil.rmtree(work, ignore_errors=True)
    if done.returncode:
        return {"failed": done.returncode}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=50_000_000)
    parser.add_argument("--nights", type=int, default=31)
    parser.add_argument("--days", type=int, default=61, help="of events")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "features.json")
    parser.add_argument("--work", type=Path, default=ROOT / ".forecache" / "bench-features")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from _features.ways import land

    from forecache.settings import load_settings

    landed = arguments.work / "landed"
    shutil.rmtree(arguments.work, ignore_errors=True)
    land(load_settings(home=landed), events=arguments.events, days=arguments.days)
    found: dict[str, Any] = {"events": arguments.events, "nights": arguments.nights, "days": arguments.days}
    found["circumstances"], found["runs"] = machine.circumstances(), []
    for way, how in RUNS:
        figures = measure(
            way, how, landed=landed, work=arguments.work / "run", nights=arguments.nights, days=arguments.days
        )
        found["runs"].append({"way": way, "how": HOW[how], **figures})
        print(f"{way}, {HOW[how]}: {figures}", flush=True)
    found["circumstances_after"] = machine.circumstances()
    shutil.rmtree(arguments.work, ignore_errors=True)
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    machine.dump(arguments.results, found)
    heads = ["way", "how", "seconds", "median of a night", "peak memory", "rows"]
    print(text_table(heads, [_cells(run) for run in found["runs"]]))
    return 0


def _cells(run: dict[str, Any]) -> list[str]:
    if "failed" in run:
        return [run["way"], run["how"], f"failed ({run['failed']})", "", "", ""]
    one_by_one = run["how"] == HOW["each"]
    return [
        run["way"],
        run["how"],
        f"{run['seconds']:.1f} s",
        f"{run['median_s']:.2f} s" if one_by_one else "",
        f"{run['peak_bytes'] / 1e9:.2f} GB",
        f"{run['rows']:,}",
    ]


if __name__ == "__main__":
    sys.exit(main())
