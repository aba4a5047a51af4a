"""A message of a topic gets the verdict that the same line of a landing file gets, and the same typed values."""

import io
import json
import re
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.compute as pc
import pytest
from odd_values import COLUMNS, DAY, GOOD, NASTY
from spark_judge import judge_by_spark
from stream_sample import messages

from forecache.declare import Avro, Json, Source
from forecache.stream.events.event_judge import EventJudge
from forecache.stream.table.schema import OFFSET

SOURCE = Source("nasty", columns=COLUMNS, event_time="at", start=DAY)
STREAM = SimpleNamespace(
    topic=SimpleNamespace(source=SOURCE, format=Json(), columns=COLUMNS, name="nasty"), views=(), key=()
)
WHOLE: list[bytes] = [
    b"", b" ", b"null", b"1", b"[]", b"{}", b'"x"', b"{", b"nope", b"\xef\xbb\xbf{}", b'{"at": 1}',
    json.dumps({**GOOD, "more": 1}).encode(), json.dumps(GOOD).encode() + b"x", json.dumps(GOOD).encode() + b"  ",
    json.dumps(GOOD).replace('"text": "a"', '"text": "a", "text": "b"').encode(),
    json.dumps(GOOD).replace("1.5", "NaN").encode(), json.dumps(GOOD).replace("1.5", "-Infinity").encode(),
    json.dumps(GOOD).replace("1.5", "01").encode(), json.dumps(GOOD).replace("1.5", "1.").encode(),
    json.dumps(GOOD).replace('"a"', '"' + "x" * 70_000 + '"').encode(),
    json.dumps(GOOD).replace('"a"', "[" * 3000 + "]" * 3000).encode(),
    json.dumps(GOOD).replace('"text"', '"te\\u0078t"').encode(), json.dumps(GOOD).replace("whole", "Whole").encode(),
]  # fmt: skip


MAY_BE = re.compile("the column '(whole|small|number|flag|day|moment)' is missing|is not declared by source")


def lines() -> list[bytes]:
    made = [json.dumps(GOOD).encode(), *WHOLE]
    for name, values in NASTY.items():
        for value in values:
            texts = {key: json.dumps(known) for key, known in GOOD.items()} | {name: value}
            made.append(("{" + ", ".join(f'"{key}": {text}' for key, text in texts.items()) + "}").encode())
    return made


def by_spark(spark: Any, content: bytes) -> dict[int, tuple[str | None, dict[str, Any]]]:
    """By line number, what ingestion says of the lines of a landing file."""
    table = judge_by_spark(spark, f"{DAY}.jsonl", content, SOURCE, DAY)
    # Values beyond the years that Python knows are in bad rows only.
    is_good = pc.or_(table["reason"].is_null(), pc.match_substring(table["reason"], "is not on the file's day"))
    good = table.filter(is_good).select(["source_line", *(f"typed_{column.name}" for column in COLUMNS)])
    typed = {row.pop("source_line"): row for row in good.to_pylist()}
    reasons = table.select(["source_line", "reason"]).to_pylist()
    return {row["source_line"]: (row["reason"], typed.get(row["source_line"], {})) for row in reasons}


@pytest.mark.slow
def test_a_message_gets_the_verdict_of_a_landing_row(spark: Any) -> None:
    given = [line for line in lines() if line.strip()]
    expected = by_spark(spark, b"\n".join(given) + b"\n")
    assert len(expected) == len(given)
    judged = EventJudge(STREAM, Path())(messages(given))
    good = {row[OFFSET]: row for row in judged.events.to_pylist()}
    bad = {row[OFFSET]: row["reason"] for row in judged.bad.to_pylist()}
    assert sorted([*good, *bad]) == list(range(len(given)))
    differences = []
    for place, line in enumerate(given):
        reason, values = expected[place + 1]
        ours = bad.get(place)
        theirs = None if reason is None else reason.replace("bad JSON line: ", "bad JSON: ")
        if theirs is not None and MAY_BE.search(theirs):
            continue  # of a message, which need not have exactly the columns of a line
        if theirs is not None and theirs.startswith("at ") and "is not on the file's day" in theirs:
            theirs = None
        if ours != theirs:
            differences.append((line[:300], ours, theirs))
        elif ours is None:
            row = {name.removeprefix("typed_"): value for name, value in values.items()}
            found = {name: good[place][name] for name in row}
            if repr(found) != repr(row):
                differences.append((line[:300], found, row))
    assert not differences, "\n".join(map(str, differences))


def test_the_verdict_does_not_depend_on_what_else_is_in_the_batch() -> None:
    given = lines()
    judge_ = EventJudge(STREAM, Path())
    together = judge_(messages(given))
    alone = [judge_(messages([line], first=place)) for place, line in enumerate(given)]
    assert [row["reason"] for row in together.bad.to_pylist()] == [
        row["reason"] for each in alone for row in each.bad.to_pylist()
    ]
    names = [column.name for column in COLUMNS]
    assert repr(together.events.select(names).to_pylist()) == repr(
        [row for each in alone for row in each.events.select(names).to_pylist()]
    )


def test_a_message_may_leave_out_what_is_not_required_and_have_more_than_is_declared() -> None:
    given: list[bytes | None] = [
        b'{"at": "2026-03-02T10:00:00Z", "text": "a"}', b'{"at": "2026-03-02T10:00:00Z", "te\\u0078t": "a"}',
        b'{"at": "2026-03-02T10:00:00Z", "whole": 1}', b'{"at": "2026-03-02T10:00:00Z", "text": "a", "more": 1}',
        b'{"at": "2026-03-02T10:00:00Z", "text": "a", "more": {"x": [1, "b"]}}',
    ]  # fmt: skip
    judged = EventJudge(STREAM, Path())(messages(given))
    assert judged.events.select(["text", "whole"]).to_pylist() == [{"text": "a", "whole": None}] * 4
    assert judged.bad["reason"].to_pylist() == ["bad JSON: the column 'text' is missing"]
    assert judged.unknown == 2


SCHEMA = {
    "type": "record", "name": "Nasty", "fields": [
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "whole", "type": ["null", "long", "double"]},
        {"name": "small", "type": ["null", "int"]},
        {"name": "number", "type": ["null", "double"]},
        {"name": "flag", "type": ["null", "boolean", "string"]},
        {"name": "day", "type": ["null", {"type": "int", "logicalType": "date"}]},
        {"name": "moment", "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}]},
        {"name": "text", "type": ["null", "string", "bytes"]},
    ],
}  # fmt: skip


def avro(record: dict[str, Any], schema: dict[str, Any] = SCHEMA) -> bytes:
    import fastavro

    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(json.loads(json.dumps(schema))), record)
    return stream.getvalue()


RECORD: dict[str, Any] = {
    "at": datetime(2026, 3, 2, 10, tzinfo=timezone.utc), "whole": 1, "small": 1, "number": 1.5, "flag": True,
    "day": DAY, "moment": datetime(2026, 3, 2, 8, 0, 0, 123_000, timezone.utc), "text": "a",
}  # fmt: skip


def avro_stream(**changes: Any) -> Any:
    topic = SimpleNamespace(**{**vars(STREAM.topic), "format": Avro(schema=json.dumps(SCHEMA), **changes)})
    return SimpleNamespace(topic=topic, views=(), key=())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"whole": None, "small": None, "number": None, "flag": None, "day": None, "moment": None}, None),
        ({"text": None}, "text is missing"),
        ({"whole": -6}, "whole -6 is below the minimum -5"),
        ({"whole": 1.5}, "whole '1.5' is not of type bigint"),
        ({"number": float("nan")}, "number is not a number"),
        ({"flag": "yes"}, None),
        ({"flag": "perhaps"}, "flag 'perhaps' is not of type boolean"),
        ({"text": b"\xff"}, "bad Avro: bytes are not UTF-8 text"),
    ],
)
def test_an_avro_message_is_judged_as_a_row(changes: dict[str, Any], reason: str | None) -> None:
    judged = EventJudge(avro_stream(), Path())(messages([avro({**RECORD, **changes})]))
    assert judged.bad["reason"].to_pylist() == ([] if reason is None else [reason])
    if reason is None:
        (row,) = judged.events.select([column.name for column in COLUMNS]).to_pylist()
        assert row == {**RECORD, **changes} | ({"flag": True} if changes.get("flag") == "yes" else {})


def test_bytes_that_are_no_record_are_bad() -> None:
    whole = avro(RECORD)
    judged = EventJudge(avro_stream(), Path())(messages([whole[:-1], whole + b"x", b"", b"\xff" * 20]))
    assert judged.events.num_rows == 0
    assert [reason.partition(":")[0] for reason in judged.bad["reason"].to_pylist()] == [
        "bad Avro", "bad Avro", "the message is empty", "bad Avro",
    ]  # fmt: skip


def test_a_header_names_the_schema_of_a_message() -> None:
    other = {**SCHEMA, "fields": list(reversed(SCHEMA["fields"]))}  # type: ignore[call-overload]
    topic = replace(Avro(schema=json.dumps({"7": SCHEMA, "12": other}), registry_wire=True))
    stream = SimpleNamespace(topic=SimpleNamespace(**{**vars(STREAM.topic), "format": topic}), views=(), key=())
    given = [
        b"\0\0\0\0\x07" + avro(RECORD), b"\0\0\0\0\x0c" + avro(RECORD,
        other), b"\0\0\0\0\x08" + avro(RECORD), avro(RECORD),
    ]  # fmt: skip
    judged = EventJudge(stream, Path())(messages(given))
    assert judged.events.select(["text", "at"]).to_pylist() == [{"text": "a", "at": RECORD["at"]}] * 2
    assert judged.bad["reason"].to_pylist() == [
        "bad Avro: its schema 8 is not declared", "bad Avro: it has no header of a schema registry",
    ]  # fmt: skip
