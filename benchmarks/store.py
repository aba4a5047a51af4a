"""The precompute store and its reader against their peers: `make bench-store` (README.md in this folder).

python benchmarks/store.py                     all sections
python benchmarks/store.py --size tiny         try the benchmark itself; its figures mean nothing
python benchmarks/store.py --only publish      some sections; the others keep their results and circumstances
python benchmarks/store.py --prepare           measure nothing: load Feast's online stores, once
python benchmarks/store.py --report            measure nothing, print what results/store.json holds
"""

import argparse
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _common import command, machine, results
from _common.rows import text_table
from _store import feast_peer, http_load, inprocess, lookups, open_loop, report, servers, summary
from _store.processes import ROOT, BenchmarkError
from _store.progress import say
from _store.publishing import Publishing
from _store.sizes import SIZES, Sizes
from _store.swaps import Swaps

PROGRAMS = {"wrk": "wrk", "redis-server": "redis-server", "redis-cli": "redis-tools", "taskset": "util-linux"}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(report.SECTIONS), help="a section; repeatable")
    parser.add_argument("--size", choices=results.SIZES, default="full", help="how much is measured (default: full)")
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
    folder = results.folder_of(sizes.name, work, arguments.results)
    path, failed = folder / "store.json", []
    if not arguments.report:
        chosen = [name for name in report.SECTIONS if name in (arguments.only or report.SECTIONS)]
        try:
            prepare(work)
        except BenchmarkError as error:
            print(f"The benchmark stopped: {error}", file=sys.stderr)
            return 1
        if arguments.prepare:
            servers.load_feast(work, sizes.http_keys)
            return 0
        failed = measure(chosen, work, sizes, arguments.passes, path)
    found = results.load(path)
    if not found:
        print(f"{path} holds no section yet.", file=sys.stderr)
        return 1
    report.plot(found, folder / "store.png")
    for name in [name for name in found if name.startswith("http-")]:
        print(
            f"\n{name}: every server\n{text_table(report.SURFACE_HEADS, report.surface_lines(found[name]['passes']))}"
        )
    print(results.text(found, report.SECTIONS, summary.rows_of))
    print(f"\nMedians, in brackets the smallest and the largest sample. Details: {path}")
    return command.exit_code(failed)


def prepare(work: Path) -> None:
    """Check for the programs, clear the way, and install the peers."""
    for program, package in PROGRAMS.items():
        if shutil.which(program) is None:
            raise BenchmarkError(f"{program} is missing; install it: apt-get install -y {package}")
    command.forget_settings()
    work.mkdir(parents=True, exist_ok=True)
    feast_peer.ensure_environment()


class Measured:
    """Passes of sections, written when each is done; a section's former result goes with its first new pass."""

    def __init__(self, path: Path, size: str) -> None:
        self.path, self.size = path, size
        self.passes: dict[str, list[dict[str, Any]]] = {}
        self.failed: list[str] = []

    def keep(self, make: Callable[[], dict[str, dict[str, Any]]], what: str) -> None:
        """Make a pass of one or several sections; one that fails is told and does not stop the others."""
        before = machine.circumstances()
        if before["busy_share"] > machine.BUSY:
            say(f"The machine is not quiet: others use {before['busy_share']:.0%} of it.")
        try:
            found = make()
        except Exception as error:  # noqa: BLE001  # half an hour of other sections is not given up for one
            traceback.print_exc()
            self.failed.append(f"{what}: {error}")
            return
        sections = results.load(self.path)
        for name, each in found.items():
            self.passes.setdefault(name, []).append({"machine": before, **each})
            sections[name] = {"size": self.size, "passes": self.passes[name], "warnings": []}
            sections[name]["warnings"] = failures(name, self.passes[name])
        results.save(self.path, sections)


def failures(name: str, passes: list[dict[str, Any]]) -> list[str]:
    """What the table says about requests that failed."""
    if not name.startswith("http-"):
        return []
    failed = {item.name: item.failed for item in summary.surfaces(passes).values() if item.failed}
    return [f"{count} requests of `{name}` failed at {server}." for server, count in failed.items()]


def measure(chosen: list[str], work: Path, sizes: Sizes, passes: int, path: Path) -> list[str]:
    """Go over all sections once a pass, so that a section's passes lie minutes apart; what failed, in words."""
    publishing, swaps = Publishing(work, sizes), Swaps(work, sizes)
    workloads = [name.removeprefix("http-") for name in chosen if name.startswith("http-")]
    measured = Measured(path, sizes.name)
    if workloads or "open" in chosen:
        servers.drop_published_home(work, sizes.http_keys)

    def http(number: int) -> dict[str, dict[str, Any]]:
        found = http_load.measure(workloads, work, sizes, number)
        return {f"http-{workload}": {"surfaces": surfaces} for workload, surfaces in found.items()}

    for number in range(1, max(passes, sizes.swap_passes) + 1):
        if number <= passes:
            if workloads:
                measured.keep(lambda number=number: http(number), "http")  # type: ignore[misc]
            if "publish" in chosen:
                measured.keep(lambda number=number: {"publish": publishing.measure(number)}, "publish")  # type: ignore[misc]
            if "in-process" in chosen:
                measured.keep(
                    lambda number=number: {"in-process": inprocess.measure(work, sizes, number)},  # type: ignore[misc]
                    "in-process",
                )
            if "look-ups" in chosen:
                measured.keep(
                    lambda number=number: {"look-ups": lookups.measure(work, sizes, number)},  # type: ignore[misc]
                    "look-ups",
                )
        if "swap" in chosen and number <= sizes.swap_passes:
            measured.keep(lambda number=number: {"swap": swaps.measure(number)}, "swap")  # type: ignore[misc]
        if "open" in chosen and number == 1:
            measured.keep(lambda: {"open": open_loop.measure(work, sizes, swaps)}, "open")
    return measured.failed


if __name__ == "__main__":
    sys.exit(main())
