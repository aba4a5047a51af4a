"""Encoding: Arrow columns become the JSON and the key bytes that one row at a time would give."""

import json
import math
import struct
from datetime import date, datetime, timezone
from uuid import UUID

import orjson
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from store_tables import SCORED_AT, predictions

from forecache.base.errors import InputError
from forecache.serve.store import KeyColumn, KeySchema, encode_key, split_entry
from forecache.serve.store.encoding.column_values import json_texts
from forecache.serve.store.encoding.entries import EntryEncoding, encode_entries, encode_keys, key_schema
from forecache.serve.store.manifest import Field, Provenance

DEFAULT = Provenance("churn", 3, 7, "1998-07-01T03:00:00.000000Z", "run-1")
ENCODING = EntryEncoding(
    KeySchema((KeyColumn("customer_id", "string"),)),
    (Field("churn_probability", "double"), Field("risk_segment", "string")),
    DEFAULT,
)


@settings(deadline=None)
@given(st.lists(st.floats() | st.integers(-(10**24), 10**24).map(float) | st.none()))
@example([100000.0, 99999.0, 1e15, 1e16, 1e21, 1e22, -0.0, 5e-324])
def test_floats_read_back_to_the_same_bits_and_stay_floats(values: list[float | None]) -> None:
    for value, text in zip(values, json_texts(pa.array(values, pa.float64()), "double").to_pylist(), strict=True):
        read = json.loads(text)
        if value is None or not math.isfinite(value):
            assert read is None
        else:
            assert isinstance(read, float)
            assert struct.pack("<d", read) == struct.pack("<d", value)
            assert orjson.loads(text) == value


@settings(deadline=None)
@given(st.lists(st.text() | st.none()))
def test_text_is_escaped_as_json(values: list[str | None]) -> None:
    values = [value for value in values if value is None or value.isprintable() or value.isascii()]
    texts = json_texts(pa.array(values, pa.string()), "string").to_pylist()
    assert [json.loads(text) for text in texts] == values
    assert not any("\n" in text for text in texts)


def test_other_types_have_their_json_form() -> None:
    assert json_texts(pa.array([1, None], pa.int64()), "bigint").to_pylist() == ["1", "null"]
    assert json_texts(pa.array([True, False, None]), "boolean").to_pylist() == ["true", "false", "null"]
    assert json_texts(pa.array([date(1998, 6, 30), None]), "date").to_pylist() == ['"1998-06-30"', "null"]
    moments = pa.array([datetime(1998, 7, 1, 3, 0, 0, 5, tzinfo=timezone.utc), None], pa.timestamp("us", "UTC"))
    assert json_texts(moments, "timestamp").to_pylist() == ['"1998-07-01T03:00:00.000005Z"', "null"]


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(min_size=1, max_size=20), st.integers(-(2**63), 2**63 - 1)), min_size=1))
def test_key_columns_become_the_bytes_of_encode_key(rows: list[tuple[str, int]]) -> None:
    rows = [(text.encode(errors="replace").decode(), number) for text, number in rows]
    batch = pa.table({"country": [row[0] for row in rows], "account": pa.array([row[1] for row in rows], pa.int64())})
    schema = key_schema(batch.schema, ("country", "account"))
    assert encode_keys(batch, schema).to_pylist() == [encode_key(schema, row) for row in rows]


def test_uuid_keys_come_from_sixteen_bytes_and_null_stays_null() -> None:
    values = [UUID(int=number * 7**40 % 2**128) for number in range(5)]
    column = pa.array([values[0].bytes, None, *(value.bytes for value in values[1:])], pa.binary())
    batch = pa.table({"device": column})
    schema = key_schema(batch.schema, ("device",))
    assert schema.columns[0].type == "uuid"
    expected = [None if value is None else str(UUID(bytes=value)).encode() for value in column.to_pylist()]
    assert encode_keys(batch, schema).to_pylist() == expected
    with pytest.raises(InputError, match="16 bytes"):
        encode_keys(pa.table({"device": pa.array([b"short"])}), schema)


def test_an_entry_is_the_object_alone_where_the_provenance_is_the_versions() -> None:
    entries, others, carried = encode_entries(predictions({"a": 0.25, "b": None}), ENCODING)
    assert entries.to_pylist() == [
        b'{"churn_probability":0.25,"risk_segment":"low"}',
        b'{"churn_probability":null,"risk_segment":null}',
    ]
    assert (others, carried) == ({}, 0)


def test_a_row_that_was_carried_forward_names_its_own_provenance() -> None:
    mixed = pa.concat_tables(
        [
            predictions({"a": 0.25}),
            predictions({"b": 0.75}, run_id="run-0", model_version=2),
            predictions({"c": 0.5}, scored_at=SCORED_AT.replace(hour=4)),
        ]
    ).combine_chunks()
    entries, others, carried = encode_entries(mixed, ENCODING)
    split = [split_entry(entry) for entry in entries.to_pylist()]
    assert carried == 2
    assert split[0] == (b'{"churn_probability":0.25,"risk_segment":"low"}', "")
    assert split[1][0] == b'{"churn_probability":0.75,"risk_segment":"high"}'
    assert others[split[1][1]] == Provenance("churn", 2, 7, DEFAULT.scored_at, "run-0")
    assert others[split[2][1]].scored_at == "1998-07-01T04:00:00.000000Z"


def test_a_type_that_cannot_be_a_key_is_refused() -> None:
    with pytest.raises(InputError, match="'score' has the type double"):
        key_schema(pa.schema([("score", pa.float64())]), ("score",))


def test_text_of_every_arrow_type_is_taken_as_plain_text() -> None:
    from forecache.kit.delta.comparison.partition import to_plain_types

    table = pa.table(
        {"a": pa.array(["x", None]).cast(pa.large_string()), "b": pa.array([b"y", b"z"], pa.large_binary())}
    )
    assert to_plain_types(table).equals(pa.table({"a": ["x", None], "b": [b"y", b"z"]}))
    assert to_plain_types(table.to_batches()[0]).schema.types == [pa.string(), pa.binary()]
