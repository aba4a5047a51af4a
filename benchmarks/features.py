"""`make bench-features`: what nights of windowed features cost, from day tiles and other ways, and point-in-time joins.

python benchmarks/features.py                        all sections, about seven minutes on two cores
python benchmarks/features.py --events 5000000       fewer events in the section `large`
python benchmarks/features.py --size tiny            try the benchmark itself; its figures mean nothing
python benchmarks/features.py --only next            some sections; the others keep their results and circumstances
python benchmarks/features.py --report               measure nothing, print what results/features.json holds
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from _common import command, results
from _features import report

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".forecache" / "bench-features"
DAYS, NIGHTS = 61, 31
SIZES = {
    "tiny": (20_000, 20_000, 50_000, 1_000),
    "full": (500_000, 2_000_000, 10_000_000, 50_000),
}
"""Events of `month` and `historical`, of `next`, and of `large`; rows of the table that is given features."""
PEERS = ("a free function", "Spark's window functions")


def month(events: int) -> dict[str, Any]:
    """All nights at once from nothing, three ways over the same events."""
    return {"events": events, "ways": {way: _way(way, events, "all") for way in ("day tiles", *PEERS)}}


def next_night(events: int) -> dict[str, Any]:
    """One night more, three ways over the same events; of tiles those of the nights before are there."""
    return {"events": events, "ways": {way: _way(way, events, "next") for way in ("day tiles", *PEERS)}}


def large(events: int) -> dict[str, Any]:
    """All nights but one from nothing, and the one after them, from day tiles alone."""
    return {"events": events, "ways": {"day tiles": _way("day tiles", events, "next")}}


def historical(events: int, rows: int) -> dict[str, Any]:
    """A table of keys and times given features, from a month of nights that are built, beside Feast."""
    subprocess.run(["bash", str(ROOT / "benchmarks" / "peers_env.sh"), "feast"], check=True)
    return {"events": events, **_job("_features.historical", events, rows)}


def _way(way: str, events: int, how: str) -> dict[str, Any]:
    return _job("_features.job", events, way, how)


def _job(module: str, events: int, *arguments: object) -> dict[str, Any]:
    """What a module's process prints as its last line, over a copy of what landed."""
    landed, home = WORK / f"landed-{events}", WORK / "run"
    if not landed.exists():
        from _features.ways import land

        from forecache.base.settings import load_settings

        land(load_settings(home=landed), events=events, days=DAYS)
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(landed, home)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT)])}
    command = [sys.executable, "-m", module, *map(str, (home, NIGHTS, DAYS, *arguments))]
    done = subprocess.run(command, cwd=ROOT / "benchmarks", env=environment, stdout=subprocess.PIPE, check=False)
    shutil.rmtree(home, ignore_errors=True)
    if done.returncode:
        raise RuntimeError(f"{module} {arguments} ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{module} {arguments} of {events:,} events: {found}", file=sys.stderr, flush=True)
    return found


def main() -> int:
    parser = command.options(__doc__, "features", report.SECTIONS)
    parser.add_argument("--events", type=int, help="of the section `large`")
    arguments = parser.parse_args()
    path, failed = results.folder_of(arguments.size, WORK / "results", arguments.results) / "features.json", []
    if not arguments.report:
        sys.path.insert(0, str(ROOT))
        few, some, many, rows = SIZES[arguments.size]
        measures: dict[str, Callable[[], dict[str, Any]]] = {
            "month": partial(month, few),
            "next": partial(next_night, some),
            "large": partial(large, arguments.events or many),
            "historical": partial(historical, few, rows),
        }
        chosen = command.chosen(arguments, report.SECTIONS)
        try:
            failed = results.measure_sections(chosen, measures, path=path, size=arguments.size)
        finally:
            for folder in WORK.glob("landed-*"):
                shutil.rmtree(folder)
    found = results.load(path)
    print(results.text(found, report.SECTIONS, report.rows_of))
    return command.exit_code(failed)


if __name__ == "__main__":
    sys.exit(main())
