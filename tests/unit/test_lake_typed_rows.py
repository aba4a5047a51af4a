"""Rows that are read as columns are those that the careful parser gives, and nothing else is taken."""

import io
import json
import random
from datetime import date

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest

from forecache.declare import Column, Source
from forecache.lake.ingest import json_pieces, row_count
from forecache.lake.ingest.parsing import CsvHeader
from forecache.lake.ingest.typed_files import FileReader, UnreadableFileError
from forecache.lake.ingest.typed_rows import TYPES, RowJudge

DAY = date(2026, 1, 1)
SEEDS = {
    "int": ["12", "-7", "0", "2147483647", "-2147483648", "007", "1e3", "0x1F", "+5", "-0"],
    "bigint": ["9223372036854775807", "-9223372036854775808", "12", "0x1F", "-0X1f", "00", "9223372036854775808"],
    "double": [
        "1.5", "-2e5", ".5", "5.", "1e400", "-1e400", "1e-400", "0x1p3", "nan", "NaN", "-nan", "inf", "Infinity",
        "nan(1)", "1f", "1d", "4.9e-324", "2.2250738585072011e-308", "1e+5", "1e", "123456789012345678901234567890",
        "1_000", "+inf", "-0", "-0.0", "1E5", "9007199254740993", "0.1",
    ],
    "date": ["2026-01-01", "0000-01-01", "9999-12-31", "2024-02-29", "2023-02-29", "2026-1-1", "20260101", "2026-01"],
    "timestamp": [
        "2026-01-01 10:15:00", "2026-01-01T10:15:00", "2026-01-01", "2026-01-01 10", "2026-01-01 10:15",
        "2026-01-01 1015", "2026-01-01 101500", "2026-01-01 10:15:00.1", "2026-01-01 10:15:00.1234567",
        "2026-01-01 10:15:00.", "2026-01-01 10:15:00Z", "2026-01-01 10:15:00+01:00", "2026-01-01 101500.123",
        "0000-01-01 00:00:00", "2024-02-29 23:59:59", "2026-01-01 24:00:00", "2026-01-01 10:15:60",
        "2026-01-01 10+01:00", "2026-01-01T10:15:00.123Z", "2026-01-01 10:15:00.123456-0330", "2026-01-01 10:15+01",
    ],
    "boolean": ["true", "false", "1", "0", "True", "TRUE", "FALSE", "t", "f", "yes", "no", "tRuE", "False"],
    "string": ["a", " a ", "\x1fa", "a\u00a0", "\u3000", "  ", "\u2003b", "null", "0x1"],
}  # fmt: skip
LETTERS = "0123456789-+:.TZ eExXnaifdF_\t/"


def change(text: str, dice: random.Random) -> str:
    letters = list(text)
    for _ in range(dice.choice([0, 1, 1, 2, 3])):
        place = dice.randrange(len(letters) + 1)
        action = dice.random()
        if action < 0.35 and place < len(letters):
            letters[place] = dice.choice(LETTERS)
        elif action < 0.6:
            letters.insert(place, dice.choice(LETTERS))
        elif place < len(letters):
            del letters[place]
    return "".join(letters)


def read(source: Source, texts: list[str], *, careful: bool) -> list[str]:
    content = "at,value\n" + "".join(f"{DAY},{text}\n" for text in texts)
    return sorted(read_file(source, content.encode(), "csv", careful=careful))


def read_file(source: Source, content: bytes, suffix: str, *, careful: bool) -> list[str]:
    judge = RowJudge(source, DAY, keeps_content=True)
    judged = list(FileReader(io.BytesIO(content), f"{DAY}.{suffix}", judge, careful=careful).read_rows())
    return [repr(row) for kind in ("good", "bad") for each in judged for row in getattr(each, kind).to_pylist()]


def odd_source(kind: str) -> Source:
    columns = (Column("at", "date"), Column("value", kind, required=False))
    return Source("odd", columns=columns, event_time="at", start=DAY)


def texts_that_arrow_reads(texts: list[str], kind: pa.DataType) -> list[str]:
    content = "at,value\n" + "".join(f"{DAY},{text}\n" for text in texts)
    options = pcsv.ConvertOptions(column_types={"value": kind})
    try:
        pcsv.read_csv(io.BytesIO(content.encode()), convert_options=options)
    except pa.ArrowInvalid:
        middle = len(texts) // 2
        halves = (texts[:middle], texts[middle:]) if middle else ()
        return [text for half in halves for text in texts_that_arrow_reads(half, kind)]
    return texts


@pytest.mark.parametrize("kind", SEEDS)
def test_a_column_that_is_read_with_its_type_has_the_values_of_its_texts(kind: str) -> None:
    source, dice = odd_source(kind), random.Random(kind)
    texts = [*SEEDS[kind], *(change(dice.choice(SEEDS[kind]), dice) for _ in range(1500))]
    typed = texts_that_arrow_reads(texts, pa.timestamp("us") if kind == "timestamp" else TYPES[kind])
    assert len(typed) > 10
    without_hexadecimal = [text for text in typed if "x" not in text.lower()]
    zoned = texts_that_arrow_reads(texts, pa.timestamp("us", "UTC"))
    with_z = [text for text in zoned if text.endswith("Z")]
    assert len(with_z) > 10 or kind != "timestamp"
    for some in (texts, typed, without_hexadecimal, zoned, with_z):
        assert read(source, some, careful=False) == read(source, some, careful=True)


LINES = [
    '{"at": "2026-01-01", "value": VALUE}', '{"at":"2026-01-01","value":VALUE}', '{"value":VALUE,"at":"2026-01-01"}',
    ' {  "at" :"2026-01-01" ,"value" : VALUE  } ',
]  # fmt: skip
"""Forms of lines; each of the others is alone, or no object with the two members."""
ODD_LINES = [
    "", "  ", "\t", "null", "[1]", "{}", '{"at": "2026-01-01"}', '{"at": "2026-01-01", "value": 1, "more": 2}',
    '{"at": "2026-01-01", "value": 1, "value": 2}', '{"at": "2026-01-01", "value": [1, {"a": null}]}',
    '{"at": "2026-01-01", "value": {"a": "b"}}', '{"at": "2026-01-01", "value": 1},', '{"at": "2026-01-01", "value": 1',
    '{"at": "2026-01-01", "value": }', '{"at": "2026-01-01" "value": 1}', '{"at": "2026-01-01",, "value": 1}',
    '{"at": "2026-01-01", "value": "a"b"}', '{"at": "2026-01-01", "value": "a}', '{"at": "2026-01-01", "value": 1}}',
    '{"at": "2026-01-01", "value": "\t"}', '{"at":\t"2026-01-01", "value": 1}', '{"at": "2026-01-01", "value": "a\r"}',
    '{"at": "2026-01-01", "val\\u0075e": 1}', '{"at": "2026-01-01", "value": 1, "at": "2026-01-01"}',
    ',"at": "2026-01-01", "value": 1}', '{"at": "2026-01-01", "value": "x, "}', '{"at": 20260101, "value": 1}',
    '{"at": null, "value": null}', '{"at": "2026-01-02", "value": 1}', '{"at": "2026-01-01", "value": "} "}',
    '{"at": "2026-01-01", "value": "' + "x" * (1 << 20) + '"}', '{"at": "\u00e9", "value": "\u2028"}',
]  # fmt: skip
PLAIN = ["null", "true", "false", "NaN", "-Infinity", "Null", "01", "-", "1.", ".5", "+1", "1e5", "-0", "1E+400", "1 2"]


@pytest.mark.parametrize("kind", SEEDS)
def test_lines_of_json_that_are_alike_have_the_rows_of_each_by_itself(kind: str) -> None:
    source, dice = odd_source(kind), random.Random(kind)
    texts = [*SEEDS[kind], *(change(dice.choice(SEEDS[kind]), dice) for _ in range(800))]
    values = [*(json.dumps(text, ensure_ascii=dice.random() < 0.5) for text in texts), *texts, *PLAIN * 4]
    lines = [dice.choice(LINES).replace("VALUE", value) for value in values] + ODD_LINES
    dice.shuffle(lines)
    ends = [dice.choice(["\n", "\r\n", "\n"]) for _ in lines]
    for some in (lines, [line for line in lines if "\n" not in line and "VALUE" not in line][:700], ODD_LINES):
        content = "".join(line + end for line, end in zip(some, ends, strict=False)).removesuffix("\n").encode()
        found = read_file(source, content, "jsonl", careful=False)
        assert found == read_file(source, content, "jsonl", careful=True)
        assert len(found) > 20


def test_most_lines_of_json_are_read_as_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Damaged lines, and such with other members, do not lead the others to the careful parser."""
    parsed = []
    parse = json_pieces.parse_json_line
    monkeypatch.setattr(json_pieces, "parse_json_line", lambda *given: parsed.append(given[1]) or parse(*given))
    lines = [form.replace("VALUE", str(number)) for number in range(500) for form in LINES]
    content = "\n".join([*ODD_LINES[:20], *lines, *ODD_LINES[20:]]).encode()
    found = read_file(odd_source("bigint"), content, "jsonl", careful=False)
    assert len(found) > 2000
    assert len(parsed) <= len(ODD_LINES)


FIELDS = ["1", "-2", "", "x", '"3"', '"4\n"', '"\n5"', '"\r\n"', '""', '"6,7"', '"a\n\nb"', " 8 ", '"9\r\n"', '"é\n"']
ODD_FIELDS = [
    '"a""b"',
    '"',
    'a"b',
    '"c" ',
    ' "d"',
    "\r",
    "a\rb",
    '"e\r"',
    '"f\n',
    "\ufeff",
    '"\ufeff\n"',
    "1,2",
    '"\n',
    "\n",
]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.2])
@pytest.mark.parametrize("piece_bytes", [60, 1000, 1 << 22])
def test_records_with_line_ends_in_quotes_are_those_of_each_by_itself(
    monkeypatch: pytest.MonkeyPatch, piece_bytes: int, share: float
) -> None:
    monkeypatch.setattr(row_count, "PIECE_BYTES", piece_bytes)
    monkeypatch.setattr(row_count, "_SMALL_PIECE_BYTES", piece_bytes // 4)
    columns = (Column("at", "date"), Column("a", "string", required=False), Column("b", "bigint", required=False))
    source, dice = Source("odd", columns=columns, event_time="at", start=DAY), random.Random(piece_bytes)

    def field() -> str:
        return dice.choice(ODD_FIELDS if dice.random() < share else FIELDS)

    for _ in range(5 if piece_bytes > 60 else 2):
        lines = [f"{DAY},{field()},{field()}" + dice.choice(["\n", "\n", "\r\n", "\n\n"]) for _ in range(100)]
        content = ("at,a,b\n" + "".join(lines)).removesuffix("\n").encode()
        found = [read_or_reason(source, content, careful=careful) for careful in (False, True)]
        assert found[0] == found[1]


def read_or_reason(source: Source, content: bytes, *, careful: bool) -> list[str] | str:
    try:
        return read_file(source, content, "csv", careful=careful)
    except UnreadableFileError as error:
        return str(error)


def test_most_records_with_line_ends_in_quotes_are_read_as_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    parse = CsvHeader.parse_row
    monkeypatch.setattr(CsvHeader, "parse_row", lambda *given: parsed.append(given[1]) or parse(*given))
    content = "at,value\n" + "".join(f'{DAY},"text\n{number}"\n' for number in range(30_000))
    found = read_file(odd_source("string"), content.encode(), "csv", careful=False)
    assert [row for row in found if "'value': 'text\\n29999'" in row and "'source_line': 60000" in row]
    assert (len(found), len(parsed)) == (30_000, 0)


@pytest.mark.parametrize("num_columns", [200, 300])
def test_parquet_rows_that_are_too_long_only_together_are_bad(num_columns: int) -> None:
    names = [f"c{number}" for number in range(num_columns)]
    source = Source(
        "wide", columns=(Column("at", "date"), *(Column(name, "string") for name in names)), event_time="at", start=DAY
    )
    texts = ["x" * 4096, "y", "\u00e9" * 2048]
    table = pa.table({"at": pa.array([DAY] * 3, pa.date32()), **dict.fromkeys(names, pa.array(texts))})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    found = [read_file(source, buffer.getvalue(), "parquet", careful=careful) for careful in (False, True)]
    assert found[0] == found[1]
    bad = [row for row in found[0] if "more than 1,048,576 bytes" in row]
    assert len(bad) == (1 if num_columns == 300 else 0)  # characters count
