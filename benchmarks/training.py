"""`make bench-training`: training against its peers, and what kills cost it.

python benchmarks/training.py                    all sections, about 25 minutes on two cores
python benchmarks/training.py --size hour        fewer samples and kills: about 15 minutes
python benchmarks/training.py --size tiny        try the benchmark itself; its figures mean nothing
python benchmarks/training.py --only chaos       some sections; the others keep their results and circumstances
python benchmarks/training.py --report           measure nothing, print what results/training.json holds
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from _common import results
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sections = list(report.SECTIONS)
    parser.add_argument("--only", choices=sections, action="append", help="measure this section; may be repeated")
    parser.add_argument("--size", choices=results.SIZES, default="full", help="how much is measured (default: full)")
    parser.add_argument("--results", type=Path, help="folder of training.json (default: results/)")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    folder = results.folder_of(arguments.size, ROOT / ".forecache" / "bench-training", arguments.results)
    path, failed = folder / "training.json", []
    if not arguments.report:
        subprocess.run(["bash", str(ROOT / "benchmarks" / "peers_env.sh"), "small"], check=True)
        work = Path(tempfile.mkdtemp(prefix="forecache-bench-training-"))
        chosen = [name for name in sections if name in (arguments.only or sections)]
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
    for sentence in failed:
        print(f"FAILED: {sentence}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
