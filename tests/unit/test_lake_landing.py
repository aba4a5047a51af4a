"""Landing files of every format become rows of text with line numbers, and nothing in them is lost."""

import io
import json
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import spark_judge
from hypothesis import given
from hypothesis import strategies as st

from forecache.declare import Column, Source
from forecache.lake.ingest.landing import file_day
from forecache.lake.ingest.parsing import ParsedRow
from forecache.lake.ingest.row_count import MAX_ROW_BYTES

SOURCE = Source(
    "orders",
    columns=(Column("customer_id", "string"), Column("at", "date"), Column("amount", "double")),
    event_time="at",
    start=date(2026, 1, 1),
)


def parse(name: str, content: bytes) -> list[ParsedRow]:
    facts, rows = spark_judge.parse(name, content, SOURCE)
    assert facts.error is None
    assert facts.counted_rows == len(rows)
    return rows


def inspect(name: str, content: bytes) -> spark_judge.FileFacts:
    return spark_judge.parse(name, content, SOURCE)[0]


def test_csv_rows_keep_their_line_numbers_across_blank_lines_and_quoted_newlines() -> None:
    rows = parse("2026-01-01.csv", b'at,customer_id,amount\n2026-01-01,a,1\n\n2026-01-01,"b\nb",2\n2026-01-01,c,\n')
    assert [(row.line, row.values) for row in rows] == [
        (2, ("a", "2026-01-01", "1")),
        (4, ("b\nb", "2026-01-01", "2")),
        (6, ("c", "2026-01-01", None)),
    ]


def test_csv_row_with_too_few_fields_is_a_bad_row_and_the_others_are_read() -> None:
    rows = parse("2026-01-01.csv", b"customer_id,at,amount\na,2026-01-01\nb,2026-01-01,2\n")
    assert rows[0].error == "the row has 2 fields, the header 3"
    assert rows[0].content == "a,2026-01-01"
    assert rows[1].error is None


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("2026-01-01.csv", b"", "the file is empty"),
        ("2026-01-01.csv", b"customer_id,at\na,2026-01-01\n", "the column 'amount' is missing"),
        ("2026-01-01.csv", b"customer_id,at,amount,x\n", "the column 'x' is not declared by source 'orders'"),
        ("2026-01-01.csv", b"customer_id,at,amount\n\xff\xfe,2026-01-01,1\n", "can't decode"),
        ("2026-01-01.csv", b'customer_id,at,amount\n"a,2026-01-01,1\n', "unexpected end of data"),
        ("2026-01-01.csv", b"\xef\xbb\xbf", "the file has no header"),
        ("2026-01-01.jsonl", b"\xef\xbb\xbf", "the file is empty"),
        ("2026-01-01.csv", b"customer_id,at,amount,at\n", "the column 'at' is there twice"),
        (
            "2026-01-01.csv",
            b"customer_id,at,amount\n" + b'"' + b"a\n" * MAX_ROW_BYTES,
            "begins on line 2 has more than",
        ),
        ("2026-01-01.parquet", b"PAR1 not really", "not a readable file: ArrowInvalid"),
        ("2026-01-01.xlsx", b"x", "the file name has no day"),
        ("latest.csv", b"customer_id,at,amount\n", "the file name has no day"),
        ("2026-13-45.csv", b"customer_id,at,amount\n", "the file name has no day"),
        ("2025-12-31.csv", b"customer_id,at,amount\n", "the file name has no day of the source"),
    ],
)
def test_unreadable_file_has_the_reason(name: str, content: bytes, error: str) -> None:
    assert error in str(inspect(name, content).error)


def test_header_only_csv_is_a_day_on_which_nothing_happened() -> None:
    assert parse("2026-01-01.csv", b"customer_id,at,amount\n") == []


def test_json_lines_keep_numbers_as_written_and_mark_bad_lines() -> None:
    content = b'{"customer_id": "a", "at": "2026-01-01", "amount": 0.10}\nnope\n\n{"customer_id": "b"}\n[1]\n'
    rows = parse("2026-01-01.jsonl", content)
    assert rows[0].values == ("a", "2026-01-01", "0.10")
    assert [(row.line, row.error is not None) for row in rows] == [(1, False), (2, True), (4, True), (5, True)]
    assert "'at' is missing" in str(rows[2].error)


def test_parquet_rows_equal_the_csv_rows_of_the_same_table() -> None:
    table = pa.table({"customer_id": ["a", None], "at": [date(2026, 1, 1)] * 2, "amount": [1.5, 0.1]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    rows = parse("2026-01-01.parquet", buffer.getvalue())
    assert [row.values for row in rows] == [("a", "2026-01-01", "1.5"), (None, "2026-01-01", "0.1")]


def test_day_of_a_file_is_read_from_its_name_in_any_folder() -> None:
    assert file_day(SOURCE, "2026/2026-01-02.2.csv") == date(2026, 1, 2)
    assert file_day(SOURCE, "notes.txt") is None


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"customer_id": "\\ud800", "at": "2026-01-01", "amount": 1}', "surrogates not allowed"),
        (b'{"customer_id": "a", "at": "2026-01-01", "amount": 1, "amount": 2}', "the member 'amount' is there twice"),
        (b'{"customer_id": "a", "at": "2026-01-01", "amount": NaN}', "NaN is not JSON"),
        (b'{"customer_id": "' + b"a" * MAX_ROW_BYTES + b'"}', "bytes, more than 1,048,576"),
    ],
)
def test_json_line_that_cannot_be_read_is_one_bad_row_among_the_others(line: bytes, error: str) -> None:
    good = b'{"customer_id": "a", "at": "2026-01-01", "amount": 1}\n'
    rows = parse("2026-01-01.jsonl", good + line + b"\n" + good)
    assert [row.error is None for row in rows] == [True, False, True]
    assert error in str(rows[1].error)


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85"])
def test_only_a_newline_ends_a_json_line(mark: str) -> None:
    text = json.dumps({"customer_id": f"a{mark}b", "at": "2026-01-01", "amount": 1}, ensure_ascii=False)
    (row,) = parse("2026-01-01.jsonl", text.encode())
    assert row.values == (f"a{mark}b", "2026-01-01", "1")


def test_nested_json_value_is_kept_as_json_with_its_numbers() -> None:
    (row,) = parse("2026-01-01.jsonl", b'{"customer_id": {"x": [1, 2.5]}, "at": "2026-01-01", "amount": 0.10}')
    assert row.values == ('{"x": [1, 2.5]}', "2026-01-01", "0.10")


@pytest.mark.parametrize("column", [[{"x": 1}], [[1, 2]]])
def test_parquet_file_with_a_nested_column_is_refused_whole(column: list[Any]) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"customer_id": column, "at": ["2026-01-01"], "amount": [1.0]}), buffer)
    assert "the column 'customer_id' is nested" in str(inspect("2026-01-01.parquet", buffer.getvalue()).error)


def test_parquet_row_that_is_not_utf8_is_a_bad_row() -> None:
    buffer = io.BytesIO()
    names = pa.array([b"\xff", b"ok"], pa.binary())
    pq.write_table(pa.table({"customer_id": names, "at": ["2026-01-01"] * 2, "amount": [1.0] * 2}), buffer)
    rows = parse("2026-01-01.parquet", buffer.getvalue())
    assert [row.error for row in rows] == ["customer_id is not UTF-8 text", None]


cell = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=5)


@given(rows=st.lists(st.tuples(cell, cell, cell), max_size=20))
def test_every_csv_row_written_is_one_row_read_with_the_same_values(rows: list[tuple[str, str, str]]) -> None:
    import csv

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["customer_id", "at", "amount"])
    writer.writerows(rows)
    parsed = parse("2026-01-01.csv", text.getvalue().encode())
    assert [row.values for row in parsed] == rows
    assert [row.line for row in parsed] == list(range(2, len(rows) + 2))
