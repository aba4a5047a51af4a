"""The precompute store and its reader against their peers: `make bench-store` (README.md in this folder).

Prints a table, and writes results/store.json and results/store.png. Sections can be measured alone and are merged
into the results that are there: `python benchmarks/store.py --only publish --only swap`.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from _store import feast_peer, http_load, inprocess, machine, report, servers
from _store.processes import ROOT, BenchmarkError
from _store.progress import say
from _store.publishing import Publishing
from _store.sizes import SIZES, Sizes
from _store.swaps import Swaps

PROGRAMS = {"wrk": "wrk", "redis-server": "redis-server", "redis-cli": "redis-tools", "taskset": "util-linux"}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(report.SECTIONS), help="a section; repeatable")
    parser.add_argument("--size", choices=list(SIZES), default="full", help="small: try the benchmark itself")
    parser.add_argument("--passes", type=int, default=2, help="passes over all sections (default: 2)")
    parser.add_argument("--work", type=Path, help="folder for data (default: .forecache/bench-store)")
    parser.add_argument("--results", type=Path, help="folder of store.json and store.png (default: results/)")
    parser.add_argument("--report", action="store_true", help="measure nothing: print what store.json holds")
    parser.add_argument("--prepare", action="store_true", help="measure nothing: load Feast's online stores, once")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    sizes: Sizes = SIZES[arguments.size]
    work = (arguments.work or ROOT / ".forecache" / "bench-store").resolve() / sizes.name
    small = sizes.name != "full"
    results = arguments.results or (work if small else ROOT / "benchmarks" / "results")
    results.mkdir(parents=True, exist_ok=True)
    file = results / "store.json"
    document: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"sections": {}}
    if not arguments.report:
        chosen = [name for name in report.SECTIONS if name in (arguments.only or report.SECTIONS)]
        try:
            prepare(work)
            if arguments.prepare:
                servers.load_feast(work, sizes.http_keys)
                return 0
            measure(chosen, work, sizes, arguments.passes, document, file)
        except BenchmarkError as error:
            print(f"The benchmark stopped: {error}", file=sys.stderr)
            return 1
    if not document["sections"]:
        print(f"{file} holds no section yet.", file=sys.stderr)
        return 1
    report.plot(document["sections"], results / "store.png")
    print(report.text(document["sections"]))
    print(f"\nMedians, with the smallest and largest sample. Details: {file}; plot: {results / 'store.png'}")
    return 0


def prepare(work: Path) -> None:
    """Check for the programs, clear the way, and install Feast's environment."""
    for program, package in PROGRAMS.items():
        if shutil.which(program) is None:
            raise BenchmarkError(f"{program} is missing; install it: apt-get install -y {package}")
    for name in [name for name in os.environ if name.startswith("FORECACHE_")]:
        del os.environ[name]  # the settings of whoever runs this are not what is measured
    work.mkdir(parents=True, exist_ok=True)
    feast_peer.ensure_environment()


def measure(chosen: list[str], work: Path, sizes: Sizes, passes: int, document: dict[str, Any], file: Path) -> None:
    """Go over all sections once a pass, so that a section's passes lie minutes apart; write after each."""
    publishing, swaps = Publishing(work, sizes), Swaps(work, sizes)
    workloads = [name.removeprefix("http-") for name in chosen if name.startswith("http-")]
    document["machine"] = machine.describe()
    document["sizes"] = vars(sizes)
    measured: dict[str, list[dict[str, Any]]] = {}

    def keep(name: str, before: dict[str, Any], found: dict[str, Any]) -> None:
        measured.setdefault(name, []).append({"machine": before, **found})
        document["sections"][name] = {"size": sizes.name, "passes": measured[name]}
        file.write_text(json.dumps(document, indent=1) + "\n")

    for number in range(1, passes + 1):
        if workloads:
            if number == 1:
                servers.drop_published_home(work, sizes.http_keys)
            before = quiet_moment()
            for workload, surfaces in http_load.measure(workloads, work, sizes, number).items():
                keep(f"http-{workload}", before, {"surfaces": surfaces})
        if "publish" in chosen:
            keep("publish", quiet_moment(), publishing.measure(number))
        if "in-process" in chosen:
            keep("in-process", quiet_moment(), inprocess.measure(work, sizes, number))
        if "swap" in chosen:
            keep("swap", quiet_moment(), swaps.measure(number))


def quiet_moment() -> dict[str, Any]:
    """What the machine is doing before a section; says so where others are busy on it."""
    before = machine.moment()
    if before["busy_share"] > report.BUSY:
        say(f"The machine is not quiet: others use {before['busy_share']:.0%} of it.")
    return before


if __name__ == "__main__":
    sys.exit(main())
