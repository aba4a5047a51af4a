"""Lists in values: their JSON, the cut of it, and the types that can be served."""

import json
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from list_tables import ITEM, SERVED, TYPES, top
from reader_support import value_json

from forecache.base.errors import InputError
from forecache.kit.delta.comparison.partition import to_plain_types
from forecache.serve.store.encoding.column_values import json_texts, served_type
from forecache.serve.store.encoding.entries import field_list
from forecache.serve.store.values import cut_lists

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALAR = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
STRUCT = st.fixed_dictionaries(
    {
        "item": st.none() | TEXT,
        "score": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "reason": st.none() | TEXT,
    }
)
LIST = st.lists(STRUCT | st.none(), max_size=8)


@settings(deadline=None)
@given(st.lists(LIST | st.none(), max_size=12), st.integers(0, 3))
@example([[{"item": '\t,\r]\n"', "score": 1.0, "reason": "},{"}, None], [], None], 1)
def test_lists_of_structures_are_the_json_of_their_items_with_their_marks(lists: list[Any], cut: int) -> None:
    texts = json_texts(pa.array(lists, pa.list_(ITEM))[cut:], SERVED["items"]).to_pylist()
    assert [json.loads(text) for text in texts] == lists[cut:]
    for text, value in zip(texts, lists[cut:], strict=True):
        marks = 0 if not value else len(value) - 1
        assert (text.count("\t"), text.count("\r"), text.count("\n")) == (marks, 1 if value else 0, 0)


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)) | st.none(), max_size=8))
@example([[100000.0, 16777216.0, 1.0000000150474662e30, -0.0, 1.401298464324817e-45, 0.10000000149011612]])
def test_floats_of_32_bits_in_lists_read_back_to_the_same_bits_and_stay_floats(lists: list[Any]) -> None:
    column = pa.array(lists, pa.list_(pa.float32()))
    read = [json.loads(text) for text in json_texts(column, "array<float>").to_pylist()]
    again = pa.array(read, pa.list_(pa.float32()))
    assert again.equals(column)
    assert all(isinstance(value, float) for values in read if values for value in values)
    assert again.flatten().view(pa.int32()).equals(column.flatten().view(pa.int32()))


def test_short_floats_stay_short_and_what_is_not_finite_is_null() -> None:
    column = pa.array([[0.1, float("nan"), None, float("inf"), 2.0]], pa.list_(pa.float32()))
    assert json.loads(json_texts(column, "array<float>")[0].as_py()) == [0.1, None, None, None, 2.0]


@settings(deadline=None)
@given(st.dictionaries(TEXT, SCALAR | st.lists(SCALAR, max_size=9) | LIST, max_size=5), st.integers(1, 10))
def test_a_cut_value_has_the_first_items_of_each_list_and_all_else_as_it_was(row: dict[str, Any], limit: int) -> None:
    cut = {name: value[:limit] if isinstance(value, list) else value for name, value in row.items()}
    assert cut_lists(value_json(row), limit) == value_json(cut)


def test_a_value_without_a_longer_list_is_the_same_object() -> None:
    value = value_json({"items": top(10), "name": "a"})
    assert cut_lists(value, 10) is value
    assert len(orjson.loads(cut_lists(value, 9))["items"]) == 9


def test_the_types_of_fields_are_named() -> None:
    schema = pa.schema(list(TYPES.items()))
    assert {field.name: field.type for field in field_list(schema, tuple(TYPES))} == SERVED
    assert served_type(pa.large_list(pa.field("element", pa.date32(), nullable=False))) == "array<date>"
    assert served_type(pa.list_(pa.timestamp("us", "UTC"), 3)) == "array<timestamp>"


@pytest.mark.parametrize(
    "kind",
    [pa.binary(), pa.struct([("a", pa.int64())]), pa.list_(pa.list_(pa.float64())), pa.list_(pa.binary()),
     pa.list_(pa.struct([("a", pa.list_(pa.int64()))])), pa.list_(pa.struct([("a", pa.struct([("b", pa.int64())]))])),
     pa.list_(pa.struct([])), pa.map_(pa.string(), pa.int64()), pa.decimal128(10, 2), pa.list_(pa.decimal128(10, 2))],
    ids=str,
)  # fmt: skip
def test_a_type_that_cannot_be_served_is_named(kind: pa.DataType) -> None:
    with pytest.raises(InputError, match="'odd' has the type .* cannot be served"):
        field_list(pa.schema([("odd", kind)]), ("odd",))


def test_lists_of_every_arrow_type_are_taken_as_plain_lists() -> None:
    odd = pa.struct([pa.field("item", pa.string_view(), nullable=False), ("score", pa.float64())])
    rows = [[{"item": "a", "score": 0.5}], None, []]
    table = pa.table({"a": pa.array(rows, pa.large_list(pa.field("element", odd, nullable=False)))})
    assert to_plain_types(table).equals(
        pa.table({"a": pa.array(rows, pa.list_(ITEM)).cast(to_plain_types(table).schema.types[0])})
    )
    fixed = pa.table({"a": pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))})
    assert json_texts(to_plain_types(fixed)["a"].combine_chunks(), "array<float>").to_pylist() == [
        "[1.0\t,2.0\r]",
        "null",
    ]
