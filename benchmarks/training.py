"""`make bench-training`: training against its peers, and what kills cost it.

    python benchmarks/training.py                    all sections, about 20 minutes on two cores
    python benchmarks/training.py --only chaos       one or more sections
    python benchmarks/training.py --smoke            small sizes, to see that it works; writes no result

Results are merged into benchmarks/results/training.json, so that sections can be measured apart.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import traceback
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from _processor import processor_name
from _training import report, runs
from _training.progress import say
from _training.sizes import FULL, SMOKE, Sizes
from _training.tables import write_table

RESULTS = Path(__file__).resolve().parent / "results"
SECTIONS = ("reading", "workers", "memory", "checkpoints", "chaos")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SECTIONS, action="append", help="measure this section; may be repeated")
    parser.add_argument("--smoke", action="store_true", help="small sizes; the figures mean nothing")
    arguments = parser.parse_args()
    sizes = SMOKE if arguments.smoke else FULL
    path = RESULTS / "training.json"
    known = {} if arguments.smoke or not path.is_file() else json.loads(path.read_text())["sections"]
    work, failed = Path(tempfile.mkdtemp(prefix="forecache-bench-training-")), []
    try:
        for section in arguments.only or SECTIONS:
            say(f"measuring {section}")
            try:
                known[section] = {**measure(section, work, sizes), **_circumstances()}
            except Exception:  # noqa: BLE001 - a section that fails must not lose the others
                failed.append(section)
                say(f"{section} failed:\n{traceback.format_exc()}")
                continue
            if not arguments.smoke:
                _write(path, known)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    rows = report.rows_of(known)
    report.show(rows)
    if not arguments.smoke:
        report.plot(rows, RESULTS / "training.png")
        print(f"written: {path} and {RESULTS / 'training.png'}")
    if failed:
        print(f"failed, and not measured now: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


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
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _write(path: Path, sections: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"sections": sections}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
