"""Rows that are judged a column at a time are those that Spark's casts and comparisons give, also for odd values."""

import csv
import io
import json
import random
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from odd_values import COLUMNS, DAY, GOOD, NASTY
from spark_judge import judge_by_spark

from forecache.base.settings import Settings
from forecache.declare import Column, Source
from forecache.kit.delta.tables import append_rows, table_version
from forecache.lake.ingest.repeats import PLACE, StagedFile, StagedRows
from forecache.lake.ingest.typed_files import FileReader
from forecache.lake.ingest.typed_rows import LINE, TEXT, RowJudge

SOURCE = Source("odd", columns=COLUMNS, event_time="at", start=DAY)
TIMES = [
    "2026-03-02T23:59:59.999999", "2026-03-03T00:00:00", "2024-02-29 00:00:00", "2023-02-29 00:00:00",
    "2000-02-29T00:00:00Z", "1900-02-29 00:00:00", "2026-04-31 00:00:00", "2026-03-02 10:00:00ZZ", "", "0x1F", " ",
]  # fmt: skip
Values = list[dict[str, str]]


def odd_texts() -> list[str]:
    texts = [_text_of(value) for values in NASTY.values() for value in values]
    return [text for text in [*texts, *TIMES] if text.isprintable() or text.isascii()]


def _text_of(value: str) -> str:
    try:
        found = json.loads(value)
    except ValueError:
        return value
    return found if isinstance(found, str) else value


def odd_rows() -> Values:
    """Rows with one odd value beside good ones, and some in which all are odd."""
    good = {name: str(value).lower() if name == "flag" else str(value) for name, value in GOOD.items()}
    rows, dice = list[dict[str, str]](), random.Random(7)
    for name in GOOD:
        for text in odd_texts():
            rows += [{**good, name: text}, good]
    return [*rows, *({name: dice.choice(odd_texts()) for name in GOOD} for _ in range(200))]


def csv_content(rows: Values) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(GOOD), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def json_content() -> bytes:
    lines = []
    for name, values in NASTY.items():
        for value in values:
            texts = {key: json.dumps(known) for key, known in GOOD.items()} | {name: value}
            lines.append("{" + ", ".join(f'"{key}": {text}' for key, text in texts.items()) + "}")
    return "\n".join(lines).encode()


def parquet_content() -> bytes:
    rows = odd_rows()
    typed = {
        "at": pa.array([DAY] * len(rows), pa.date32()).cast(pa.timestamp("ms")),
        "whole": pa.array([place % 16 - 8 for place in range(len(rows))], pa.int16()),
        "small": pa.array([2**31 - 3 + place % 5 for place in range(len(rows))], pa.int64()),
        "number": pa.array([place / 7 * 10.0 ** (place % 320 - 20) for place in range(len(rows))], pa.float64()),
        "flag": pa.array([None if place % 3 == 0 else place % 2 == 0 for place in range(len(rows))], pa.bool_()),
        "day": pa.array([row["day"] for row in rows], pa.string()),
        "moment": pa.array([row["moment"] for row in rows], pa.string()).dictionary_encode(),
        "text": pa.array([row["text"] for row in rows], pa.string()),
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(typed), buffer, row_group_size=100)
    return buffer.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_odd_values_are_judged_as_spark_judges_them(spark: Any, suffix: str) -> None:
    content = {"csv": lambda: csv_content(odd_rows()), "jsonl": json_content, "parquet": parquet_content}[suffix]()
    name = f"{DAY}.{suffix}"
    table = judge_by_spark(spark, name, content, SOURCE, DAY)
    judged = list(FileReader(io.BytesIO(content), name, RowJudge(SOURCE, DAY, keeps_content=True)).read_rows())
    bad = [row for each in judged for row in each.bad.to_pylist()]
    # Typed values of bad rows may be beyond what Python holds.
    assert bad == table.filter(pc.is_valid(table["reason"])).select([LINE, "reason", "content"]).to_pylist()
    good = [row for each in judged for row in each.good.to_pylist()]
    expected = table.filter(pc.is_null(table["reason"]))
    names = [*(f"typed_{column.name}" for column in COLUMNS), LINE, "content"]
    expected = expected.select(names).rename_columns([*(column.name for column in COLUMNS), LINE, TEXT])
    assert list(map(repr, good)) == list(map(repr, expected.to_pylist()))
    assert min(len(good), len(bad)) > 80


def test_a_file_of_quoted_fields_is_read_as_one_without() -> None:
    rows = odd_rows()
    plain = csv_content([row for row in rows if not set('",\n\r') & set("".join(row.values()))])
    fields = [line.split(b",") for line in plain.split(b"\n")[:-1]]
    quoted = b"\n".join(b",".join(b'"' + field + b'"' for field in line) for line in fields)
    found = [_read_all(content) for content in (plain, quoted)]
    assert found[0] == found[1]
    assert len(found[0]) > 1000


def _read_all(content: bytes) -> list[str]:
    judged = FileReader(io.BytesIO(content), f"{DAY}.csv", RowJudge(SOURCE, DAY)).read_rows()
    return [row for each in judged for row in _rows(each)]


def _rows(judged: Any) -> list[str]:
    bad = judged.bad.drop_columns(["content"])
    return [repr(row) for table in (judged.good, bad) for row in table.to_pylist()]


KEYED = replace(
    SOURCE, columns=(Column("a", "string"), Column("b", "double"), Column("at", "timestamp")), unique=("a", "b")
)


def stage(folder: Path, rows: dict[str, list[tuple[str | None, float | None]]]) -> list[StagedFile]:
    files, place = [], 0
    for name, values in sorted(rows.items()):
        table = pa.table({
            "a": pa.array([a for a, _ in values], pa.string()), "b": pa.array([b for _, b in values], pa.float64()),
            LINE: pa.array(range(2, len(values) + 2), pa.int64()),
            PLACE: pa.array(range(place, place + len(values)), pa.int64()),
        })  # fmt: skip
        place += len(values)
        pq.write_table(table, folder / f"{len(files)}.parquet")
        files.append(StagedFile(name, date(2026, 1, int(name[-1])), folder / f"{len(files)}.parquet", 0))
    return files


def test_repeated_events_are_found_among_the_files_and_in_the_raw_table(settings: Settings, tmp_path: Path) -> None:
    """Nulls are the same among files, as in a group, and differ from those of the table, as in a join."""
    files = stage(tmp_path, {
        "it's 1": [("x", 1.0), ("y", 0.0), (None, 2.0), ("x", 2.0), ("x", 1.0)],
        "file 2": [("y", -0.0), (None, 2.0), ("z", None), ("z", 3.0), ("known", 1.0), ("own", 1.0)],
    })  # fmt: skip
    before = {"a": ["known", "own", None], "b": [1.0, 1.0, 2.0], "source_file": ["other", "it's 1", "other"]}
    append_rows(settings, KEYED.raw_table, pa.table(before))
    version = table_version(settings, KEYED.raw_table)
    for raw_version, known in ((version, ["known"]), (-1, [])):
        staged = StagedRows(settings, KEYED, files, raw_version=raw_version)
        found = staged.find_repeated_rows(["it's 1", "file 2"]).tolist()
        # The files are in the order of their names: "file 2" has the places 0 to 5, "it's 1" those from 6 on.
        assert found == [*([4] if known else []), 7, 8, 10]
