"""Landing files of every format, valid and damaged, and their rows counted with nothing of the project's."""

import io
import json
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from forecache.declare import Column, Source

SOURCE = Source(
    "orders",
    columns=(Column("customer_id", "string"), Column("at", "date"), Column("amount", "double")),
    event_time="at",
    start=date(2026, 1, 1),
)
Edits = list[tuple[int, int, bytes]]
NAMES = ["customer_id", "at", "amount"]

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


def json_lines(content: bytes) -> list[bytes]:
    """Lines of a JSON lines file that are not blank."""
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return [line for line in lines if line.strip(b" \t\r\n\x0b\x0c")]


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
