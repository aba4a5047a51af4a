"""The README's table of figures, from the results that the benchmarks wrote: `make figures`.

Every figure that has a floor is in it, met or missed. A test holds the README to it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _scoring import report as scoring
from _store import report as store_report
from _store import summary as store
from _training import report as training

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
BEGIN, END = "<!-- figures: make figures -->", "<!-- end of figures -->"

_STORE = {
    "http-one": "One key over HTTP, 16 connections",
    "http-many": "100 keys over HTTP, 4 connections",
    "publish": "Publish 10 million keys",
    "in-process": "In process, 10 million keys",
    "swap": "20 publishes in 60 s of load",
}


@dataclass(frozen=True)
class Line:
    """A row of the table, as text."""

    what: str
    ours: str
    peer: str
    ratio: str
    floor: str
    met: bool


def store_lines(document: dict[str, Any]) -> list[Line]:
    return [
        Line(
            f"{_STORE[section]}: {row.figure}",
            _value(row.ours, row.unit),
            f"{_value(row.theirs, row.unit)}, {row.peer}" if row.theirs is not None else "",
            "" if row.ratio is None else f"{row.ratio:.3g}",
            row.floor.removesuffix(" x"),
            bool(row.met),
        )
        for section in store_report.SECTIONS
        if section in document["sections"]
        for row in store.rows_of(section, document["sections"][section]["passes"])
        if row.met is not None
    ]


def _value(value: store.Value, unit: str) -> str:
    return f"{store_report.number(value.median)} {unit}".strip()


def scoring_lines(document: dict[str, Any]) -> list[Line]:
    return [_line(row.what, row) for row in scoring.rows_of(document) if row.limit is not None]


def training_lines(document: dict[str, Any]) -> list[Line]:
    return [_line(f"{row.section}: {row.what}", row) for row in training.rows_of(document["sections"])]


def _line(what: str, row: Any) -> Line:
    floor = f"{'>=' if row.at_least else '<='} {row.limit:g}"
    return Line(what[0].upper() + what[1:], _median(row.ours), _median(row.peer), f"{row.ratio:.3g}", floor, row.met)


def _median(text: str) -> str:
    """A figure without the spread in brackets, which the results have."""
    return text.partition(" (")[0]


def table(lines: list[Line]) -> str:
    heads = ["| What | Forecache | Peer | Ratio | Asked | |", "| --- | --- | --- | --- | --- | --- |"]
    cells = [
        (each.what, each.ours, each.peer, each.ratio, each.floor, "" if each.met else "**missed**") for each in lines
    ]
    rows = [f"| {' | '.join(each)} |" for each in cells]
    return "\n".join([*heads, *rows])


def block(results: Path = RESULTS) -> str:
    """The tables of the benchmarks that have results, with a heading each."""
    parts = []
    for name, title, lines in (
        ("store", "Store and reader (`make bench-store`)", store_lines),
        ("scoring", "Batch scoring (`make bench-scoring`)", scoring_lines),
        ("training", "Training (`make bench-training`)", training_lines),
    ):
        path = results / f"{name}.json"
        if path.is_file():
            parts.append(f"**{title}**\n\n{table(lines(json.loads(path.read_text())))}")
    return "\n\n".join(parts)


def inserted(readme: str, text: str) -> str:
    """The README with the block between its two marks."""
    before, _, rest = readme.partition(BEGIN)
    _, mark, after = rest.partition(END)
    assert mark, f"{README} needs the marks {BEGIN} and {END}"
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


if __name__ == "__main__":
    README.write_text(inserted(README.read_text(), block()))
    print(block())
