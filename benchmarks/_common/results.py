"""Results on disk: one JSON file a benchmark, one entry a section, each with the circumstances it was measured in."""

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from _common import machine
from _common.rows import HEADS_WITH_ASKED, Row, text_table

RESULTS = Path(__file__).resolve().parents[1] / "results"
SIZES = ("tiny", "full")
"""tiny: seconds, to try the benchmark; full: what is published."""

RowsOf = Callable[[str, dict[str, Any]], list[Row]]


def load(path: Path) -> dict[str, Any]:
    """The sections of a result file by name; none where there is no file."""
    sections: dict[str, Any] = json.loads(path.read_text())["sections"] if path.is_file() else {}
    return sections


def save(path: Path, sections: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    machine.dump(path, {"sections": sections})


def folder_of(size: str, work: Path, asked: Path | None) -> Path:
    """Where results go: beside the published ones only where the sizes are those that are published."""
    return asked or (work if size == "tiny" else RESULTS)


def measure_sections(
    names: Iterable[str], measures: dict[str, Callable[[], dict[str, Any]]], *, path: Path, size: str
) -> list[str]:
    """Measure sections one after the other and write each when it is done; what failed, in words.

    A section that fails keeps its former result and does not stop the others. Nothing of another section is touched:
    machine and commit stand in each.
    """
    failed = []
    for name in names:
        before = machine.circumstances()
        if before["busy_share"] > machine.BUSY:
            print(f"The machine is not quiet: others use {before['busy_share']:.0%} of it.", file=sys.stderr)
        started = time.perf_counter()
        try:
            measured = measures[name]()
        except Exception as error:  # noqa: BLE001  # half an hour of other sections is not given up for one
            traceback.print_exc()
            failed.append(f"{name}: {error}")
            continue
        sections = load(path)
        sections[name] = {"size": size, "machine": before, "took_s": round(time.perf_counter() - started), **measured}
        save(path, sections)
    return failed


def text(sections: dict[str, Any], titles: dict[str, str], rows_of: RowsOf) -> str:
    """Every measured section as a printed table, each with its machine and its warnings."""
    parts = []
    for name, title in titles.items():
        if name not in sections:
            continue
        lines = [row.cells_with_asked() for row in rows_of(name, sections[name])]
        parts += [f"\n{name}: {title}", machine.line_of(sections[name]), "", text_table(HEADS_WITH_ASKED, lines)]
        parts += machine.warnings(name, sections[name])
    return "\n".join(parts)
