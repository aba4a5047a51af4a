"""`make bench`: the sections that are measured on every commit that publishes figures, within 75 minutes on two cores.

python benchmarks/hour.py                  measure them all; `make figures` then writes the pages
python benchmarks/hour.py --size tiny      try every benchmark; its figures mean nothing
python benchmarks/hour.py --others         print the commands of the sections that are measured less often
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from _common import command, results

SECTIONS: dict[str, tuple[str, ...]] = {
    "store": ("http-one", "http-many", "publish", "in-process"),
    "realtime": ("network", "overload", "swap", "lookup"),
    "night": ("night", "next_day"),
    "features": ("month", "next", "historical"),
    "scoring": ("arrow",),
    "recommend": ("reading",),
    "stream": ("event",),
    "demo": ("demo",),
    "history": ("history",),
}
"""By benchmark, in this order: answers first, while the machine is fresh."""
_OPTIONS = {"store": ("--passes", "1")}
_MOST_MINUTES = 75


def other_sections() -> dict[str, list[str]]:
    """By benchmark, the sections that `make bench` leaves out."""
    import figures

    return {
        name: [section for section in sections if section not in SECTIONS.get(name, ())]
        for name, (_, sections, _) in figures.BENCHMARKS.items()
    }


def command_of(name: str, sections: list[str]) -> str:
    """The command that measures sections of a benchmark."""
    return f'make bench-{name} ARGS="{" ".join(f"--only {section}" for section in sections)}"'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=results.SIZES, default="full", help="how much is measured (default: full)")
    parser.add_argument("--others", action="store_true", help="measure nothing: print the other sections' commands")
    arguments = parser.parse_args()
    if arguments.others:
        print("\n".join(command_of(name, sections) for name, sections in other_sections().items() if sections))
        return 0
    failed, begin = [], time.perf_counter()
    for name, sections in SECTIONS.items():
        started = time.perf_counter()
        options = [option for section in sections for option in ("--only", section)]
        process = subprocess.run(
            [sys.executable, str(Path(__file__).with_name(f"{name}.py")), "--size", arguments.size, *options,
             *_OPTIONS.get(name, ())],
            check=False,
        )  # fmt: skip
        failed += [f"{name}: exit code {process.returncode}"] if process.returncode else []
        print(f"\n{name}: {(time.perf_counter() - started) / 60:.1f} minutes\n", flush=True)
    minutes = (time.perf_counter() - begin) / 60
    print(f"All: {minutes:.1f} minutes of {_MOST_MINUTES}.")
    return command.exit_code(failed)


if __name__ == "__main__":
    sys.exit(main())
