"""What Arrow reads from CSV as a column's type has the value of a cast of its text, and nothing else is taken."""

import io
import random
from datetime import date

import pyarrow as pa
import pyarrow.csv as pcsv
import pytest

from forecache.declare import Column, Source
from forecache.lake.ingest.typed_files import FileReader
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
    judge = RowJudge(source, DAY)
    judged = FileReader(io.BytesIO(content.encode()), "2026-01-01.csv", judge, careful=careful).read_rows()
    return sorted(repr(row) for each in judged for rows in (each.good, each.bad) for row in rows.to_pylist())


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
    columns = (Column("at", "date"), Column("value", kind, required=False))
    source = Source("odd", columns=columns, event_time="at", start=DAY)
    dice = random.Random(kind)
    texts = [*SEEDS[kind], *(change(dice.choice(SEEDS[kind]), dice) for _ in range(1500))]
    typed = texts_that_arrow_reads(texts, pa.timestamp("us") if kind == "timestamp" else TYPES[kind])
    assert len(typed) > 10
    without_hexadecimal = [text for text in typed if "x" not in text.lower()]
    zoned = texts_that_arrow_reads(texts, pa.timestamp("us", "UTC"))
    with_z = [text for text in zoned if text.endswith("Z")]
    assert len(with_z) > 10 or kind != "timestamp"
    for some in (texts, typed, without_hexadecimal, zoned, with_z):
        assert read(source, some, careful=False) == read(source, some, careful=True)
