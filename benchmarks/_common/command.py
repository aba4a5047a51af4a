"""What the commands of the benchmarks share: options, sections to measure, a clean environment, the exit code."""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from _common import results

ROOT = Path(__file__).resolve().parents[2]


def options(description: str | None, name: str, sections: Iterable[str]) -> argparse.ArgumentParser:
    """A parser with the options of a benchmark of several sections, whose results are in `<name>.json`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(sections), action="append", help="measure this section; may be repeated")
    parser.add_argument("--size", choices=results.SIZES, default="full", help="how much is measured (default: full)")
    parser.add_argument("--results", type=Path, help=f"folder of {name}.json (default: results/)")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    return parser


def chosen(arguments: argparse.Namespace, sections: Iterable[str]) -> list[str]:
    """The sections that `--only` names, in their own order; without it all of them."""
    return [name for name in sections if not arguments.only or name in arguments.only]


def forget_settings() -> None:
    """Take Forecache's settings out of the environment: those of whoever runs this are not what is measured."""
    for name in [name for name in os.environ if name.startswith("FORECACHE_")]:
        del os.environ[name]


def measure_this_tree() -> None:
    """Have this process and its children import the code that lies beside the benchmarks, with default settings."""
    forget_settings()
    os.environ["PYTHONPATH"] = str(ROOT)
    sys.path.insert(0, str(ROOT))


def exit_code(failed: Sequence[str]) -> int:
    """Say which sections failed, and whether the command did."""
    for sentence in failed:
        print(f"FAILED: {sentence}", file=sys.stderr)
    return 1 if failed else 0
