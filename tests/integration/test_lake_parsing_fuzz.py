"""Whatever the bytes: each row of a landing file is given once, or the whole file is refused with a reason.

What a file holds is counted here, byte by byte, with nothing of the project's.
"""

import io
import json
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from forecache.lake.parsing import ParsedRow, parse_file, parse_files, parsed_columns
from forecache.pipeline import Column, Source

SOURCE = Source(
    "orders",
    columns=(Column("customer_id", "string"), Column("at", "date"), Column("amount", "double")),
    event_time="at",
    start=date(2026, 1, 1),
)
Edits = list[tuple[int, int, bytes]]
NAMES = ["customer_id", "at", "amount"]
pytestmark = pytest.mark.slow
# Eight variants of each file: 2,400 files of each format.
many = hypothesis_settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])

PIECES = [
    b'"', b'""', b",", b"\n", b"\r\n", b"\r", b"\0", b"\xef\xbb\xbf", b"\xff", b"\xc3", b"\xed\xa0\x80", b"{", b"}",
    b"[" * 30, b"[" * 5000, b'"a":', b"\\", b"\\ud800", b"\\u0000", b"NaN", b"-Infinity", b"1e999", b"null", b"  ",
    "\u2028".encode(), "\u2029".encode(), "\u0085".encode(), b"\x0b", b"\x0c", b"\x1c", "\U0001f600".encode(), b"'",
    b";", b"\t", b"9" * 5000, b"PAR1",
]  # fmt: skip
cell = st.one_of(
    st.sampled_from(["a", "2026-01-01", "1.5", "", '"x"', '"b\nb"', '"q""q"', '5" pipe', "é", "\u2028", "x\ry"]),
    st.text(st.characters(codec="utf-8"), max_size=6).map(lambda text: '"' + text.replace('"', '""') + '"'),
)
csv_file = st.tuples(
    st.sampled_from(["", "\ufeff"]),
    st.sampled_from(["\n", "\r\n"]),
    st.permutations(NAMES),
    st.lists(st.lists(cell, min_size=2, max_size=4), max_size=8),
).map(lambda f: (f[0] + f[1].join([",".join(f[2]), *(",".join(row) for row in f[3]), ""])).encode())
value: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)
json_row = st.fixed_dictionaries(dict.fromkeys(NAMES, value))
json_file = st.lists(
    st.tuples(json_row, st.booleans(), st.sampled_from(["\n", "\r\n", "\n\n", "\n \n"])), max_size=8
).map(
    lambda rows: "".join(json.dumps(row, ensure_ascii=ascii) + end for row, ascii, end in rows).encode(
        errors="surrogatepass"
    )
)
edit = st.tuples(st.integers(0, 1 << 16), st.integers(0, 8), st.sampled_from(PIECES) | st.binary(max_size=4))
edits = st.lists(edit, max_size=3)
variants = st.lists(edits, min_size=7, max_size=7).map(lambda several: [[], *several])


def edited(content: bytes, changes: Edits) -> bytes:
    """Each change takes some bytes out at a place and puts others in."""
    for at, taken, put in changes:
        place = at % (len(content) + 1)
        content = content[:place] + put + content[place + taken :]
    return content


def parse(name: str, content: bytes) -> list[ParsedRow]:
    return list(parse_file(name, io.BytesIO(content), SOURCE))


def csv_records(content: bytes) -> list[bytes] | None:
    """Records of a CSV file, blank ones left out after the first; None where a quoted field never ends."""
    records, record, state = list[bytes](), bytearray(), "start"
    for byte in (content.removeprefix(b"\xef\xbb\xbf") + b"\n").decode("latin-1"):
        if byte == "\n" and state != "quoted":
            records.append(bytes(record).removesuffix(b"\r"))
            record, state = bytearray(), "start"
            continue
        record += byte.encode("latin-1")
        if state == "quoted":
            state = "closing" if byte == '"' else "quoted"
        elif state == "closing":
            state = {'"': "quoted", ",": "start"}.get(byte, "plain")
        elif byte == ",":
            state = "start"
        else:
            state = "quoted" if state == "start" and byte == '"' else "plain"
    if state == "quoted":
        return None
    return [*records[:1], *(record for record in records[1:] if record)]


def expect_rows_or_a_reason(rows: list[ParsedRow], num_rows: int | None) -> None:
    about = rows[0]
    assert about.line == 0
    if about.error is not None or num_rows is None:
        assert about.error
        assert len(rows) == 1
        return
    assert about.counted_rows == num_rows
    assert len(rows) == num_rows + 1
    places = [row.line for row in rows]
    assert places == sorted(set(places))
    for row in rows[1:]:
        assert row.error is None or set(row.values) == {None}
        assert row.content is not None


def expect_spark_gets_them(name: str, content: bytes, num_rows: int, folder: Any) -> None:
    (folder / name).write_bytes(content)
    names = pa.record_batch([pa.array([name])], names=["source_file"])
    batches = list(parse_files([names], uri=str(folder), storage_options={}, source=SOURCE, refused={}))
    assert sum(batch.num_rows for batch in batches) == num_rows
    assert batches[0].schema.names == list(parsed_columns(SOURCE))


@many
@given(original=csv_file, several=variants)
def test_rows_of_any_csv_file_are_each_given_once(original: bytes, several: list[Edits]) -> None:
    for changes in several:
        expect_csv_rows(edited(original, changes))


def expect_csv_rows(content: bytes) -> None:
    records = csv_records(content)
    rows = parse("2026-01-01.csv", content)
    expect_rows_or_a_reason(rows, None if records is None else len(records) - 1)
    try:
        content.decode()
        sound = records is not None and sorted(records[0].decode().split(",")) == sorted(NAMES)
    except UnicodeDecodeError:
        sound = False
    if sound:
        assert rows[0].error is None


@many
@given(original=json_file, several=variants)
def test_rows_of_any_json_lines_file_are_each_given_once(original: bytes, several: list[Edits]) -> None:
    for changes in several:
        expect_json_rows(edited(original, changes))


def expect_json_rows(content: bytes) -> None:
    lines = [line for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip(b" \t\r\n\x0b\x0c")]
    rows = parse("2026-01-01.jsonl", content)
    expect_rows_or_a_reason(rows, len(lines))
    try:
        content.decode()
        assert rows[0].error in (None, "the file is empty")
    except UnicodeDecodeError:
        assert "not UTF-8" in str(rows[0].error)


parquet_column = st.one_of(
    st.just((pa.string(), st.text(st.characters(codec="utf-8"), max_size=5))),
    st.just((pa.binary(), st.binary(max_size=5))),
    st.just((pa.float64(), st.floats())),
    st.just((pa.int64(), st.integers(-(2**63), 2**63 - 1))),
    st.just((pa.bool_(), st.booleans())),
    st.just((pa.date32(), st.dates())),
    st.just((pa.timestamp("us", tz="UTC"), st.datetimes())),
    st.just((pa.null(), st.none())),
    st.just((pa.list_(pa.int8()), st.lists(st.integers(0, 9), max_size=2))),
    st.just((pa.struct([("x", pa.int8())]), st.fixed_dictionaries({"x": st.integers(0, 9)}))),
    st.just((pa.dictionary(pa.int8(), pa.string()), st.sampled_from("abc"))),
    st.just((pa.duration("s"), st.integers(0, 9))),
    st.just((pa.float16(), st.just(None))),
)


@st.composite
def parquet_file(draw: Any) -> tuple[bytes, int]:
    num_rows = draw(st.integers(0, 12))
    arrays = []
    for _ in NAMES:
        kind, values = draw(parquet_column)
        column = draw(st.lists(values | st.none(), min_size=num_rows, max_size=num_rows))
        arrays.append(pa.array(column, kind))
    buffer = io.BytesIO()
    pq.write_table(pa.table(arrays, NAMES), buffer, row_group_size=draw(st.integers(1, 12)))
    return buffer.getvalue(), num_rows


@many
@given(file=parquet_file(), several=variants)
def test_rows_of_any_parquet_file_are_each_given_once(file: tuple[bytes, int], several: list[Edits]) -> None:
    content, num_rows = file
    rows = parse("2026-01-01.parquet", content)
    expect_rows_or_a_reason(rows, num_rows)
    kinds = pq.read_schema(io.BytesIO(content)).types
    if not any(pa.types.is_nested(kind) or kind in (pa.duration("s"), pa.float16()) for kind in kinds):
        assert rows[0].error is None
    for changes in several:
        damaged = parse("2026-01-01.parquet", edited(content, changes))
        expect_rows_or_a_reason(damaged, damaged[0].counted_rows)


@hypothesis_settings(max_examples=100, deadline=None)
@given(contents=st.tuples(csv_file, edits), lines=st.tuples(json_file, edits))
def test_rows_of_any_file_can_be_handed_to_spark(contents: Any, lines: Any) -> None:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        for name, content in (("2026-01-01.csv", edited(*contents)), ("2026-01-01.jsonl", edited(*lines))):
            expect_spark_gets_them(name, content, len(parse(name, content)), Path(folder))
