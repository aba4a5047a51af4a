"""`make bench-stream`: from an event to its answer, and what is left when processes are killed while events stream.

python benchmarks/stream.py                      all sections
python benchmarks/stream.py --size tiny          try the benchmark itself; its figures mean nothing
python benchmarks/stream.py --only rewind        some sections; the others keep their results and circumstances
python benchmarks/stream.py --report             measure nothing, print what results/stream.json holds
"""

import importlib
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from _common import command, results
from _stream import report
from _stream.sizes import SIZES

WORK = command.ROOT / ".forecache" / "bench-stream"
_MODULES = {"rewind": "rewind", "once": "once", "fraud": "fraud", "live-cost": "live_cost"}


def _measured(section: str, work: Path, size: str) -> dict[str, Any]:
    """A section; its module is imported when it is measured, since each brings a project of its own."""
    if section in report.FRESHNESS:
        from _stream import freshness

        return freshness.measure(work, SIZES[size], section)
    found: dict[str, Any] = importlib.import_module(f"_stream.{_MODULES[section]}").measure(work, SIZES[size])
    return found


def main() -> int:
    parser = command.options(__doc__, "stream", report.SECTIONS)
    parser.add_argument("--work", type=Path, help="folder for data (default: .forecache/bench-stream)")
    arguments = parser.parse_args()
    work = (arguments.work or WORK).resolve() / arguments.size
    path, failed = results.folder_of(arguments.size, work, arguments.results) / "stream.json", []
    if not arguments.report:
        # What a section has started ends with it, also where it is stopped.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        command.measure_this_tree()
        work.mkdir(parents=True, exist_ok=True)
        measures: dict[str, Callable[[], dict[str, Any]]] = {
            name: partial(_measured, name, work, arguments.size) for name in report.SECTIONS
        }
        chosen = command.chosen(arguments, report.SECTIONS)
        failed = results.measure_sections(chosen, measures, path=path, size=arguments.size)
    print(results.text(results.load(path), report.SECTIONS, report.rows_of))
    return command.exit_code(failed)


if __name__ == "__main__":
    sys.exit(main())
