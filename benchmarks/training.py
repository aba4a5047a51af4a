"""`make bench-training`: training against its peers, and what kills cost it.

python benchmarks/training.py                    all sections
python benchmarks/training.py --size tiny        try the benchmark itself; its figures mean nothing
python benchmarks/training.py --only chaos       some sections; the others keep their results and circumstances
python benchmarks/training.py --report           measure nothing, print what results/training.json holds
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from _common import command, results
from _training import report, runs
from _training.sizes import SIZES

ROOT = Path(__file__).resolve().parent.parent
MEASURES: dict[str, Callable[..., dict[str, Any]]] = {
    "reading": partial(runs.single, "reading"),
    "workers": runs.workers,
    "memory": runs.memory,
    "checkpoints": partial(runs.single, "checkpoints"),
    "chaos": runs.chaos,
}


def main() -> int:
    parser = command.options(__doc__, "training", report.SECTIONS)
    arguments = parser.parse_args()
    folder = results.folder_of(arguments.size, ROOT / ".forecache" / "bench-training", arguments.results)
    path, failed = folder / "training.json", []
    if not arguments.report:
        subprocess.run(["bash", str(ROOT / "benchmarks" / "peers_env.sh"), "small"], check=True)
        work = Path(tempfile.mkdtemp(prefix="forecache-bench-training-"))
        chosen = command.chosen(arguments, report.SECTIONS)
        measures = {name: partial(MEASURES[name], work, SIZES[arguments.size]) for name in chosen}
        try:
            failed = results.measure_sections(chosen, measures, path=path, size=arguments.size)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    found = results.load(path)
    if not found:
        print(f"{path} holds no section yet.", file=sys.stderr)
        return 1
    print(results.text(found, report.SECTIONS, report.rows_of))
    report.plot(found, folder / "training.png")
    print(f"\nMedians, in brackets the smallest and the largest sample. Details: {path}")
    return command.exit_code(failed)


if __name__ == "__main__":
    sys.exit(main())
