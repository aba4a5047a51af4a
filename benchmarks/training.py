"""`make bench-training`: training against its peers, and what kills cost it.

    python benchmarks/training.py                    all sections, about 12 minutes on two cores
    python benchmarks/training.py --only chaos       one or more sections
    python benchmarks/training.py --smoke            small sizes, to see that it works; writes no result

Results are merged into benchmarks/results/training.json, so that sections can be measured apart.
"""

import argparse
import json
import os
import platform
import shutil
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from _training import report, runs
from _training.progress import say
from _training.sizes import FULL, SMOKE, Sizes
from _training.tables import write_table

RESULTS = Path(__file__).resolve().parent / "results"
SECTIONS = ("reading", "workers", "memory", "checkpoints", "chaos")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SECTIONS, action="append", help="measure this section; may be repeated")
    parser.add_argument("--smoke", action="store_true", help="small sizes; the figures mean nothing")
    arguments = parser.parse_args()
    sizes = SMOKE if arguments.smoke else FULL
    path = RESULTS / "training.json"
    known = {} if arguments.smoke or not path.is_file() else json.loads(path.read_text())["sections"]
    work = Path(tempfile.mkdtemp(prefix="forecache-bench-training-"))
    try:
        for section in arguments.only or SECTIONS:
            say(f"measuring {section}")
            known[section] = {**measure(section, work, sizes), **_circumstances()}
            if not arguments.smoke:
                _write(path, known)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    rows = report.rows_of(known)
    report.show(rows)
    if not arguments.smoke:
        report.plot(rows, RESULTS / "training.png")
        print(f"written: {path} and {RESULTS / 'training.png'}")


def measure(section: str, work: Path, sizes: Sizes) -> dict[str, Any]:
    """One section's figures."""
    if section in ("reading", "checkpoints"):
        table = write_table(work / section, sizes.reading_rows)
        repeats = sizes.repeats if section == "reading" else 2 * sizes.repeats
        return runs.single(section, table, sizes.seconds, repeats)
    measured: dict[str, Any] = {"workers": runs.workers, "memory": runs.memory, "chaos": runs.chaos}[section](
        work, sizes
    )
    return measured


def _circumstances() -> dict[str, Any]:
    import torch

    return {
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _write(path: Path, sections: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"sections": sections}, indent=2) + "\n")


if __name__ == "__main__":
    main()
