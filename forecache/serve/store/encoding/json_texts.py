"""JSON of a column's values, built by Arrow kernels without Python code per row; and the types that can be served.

Floats have the shortest form that reads back to the same bits; NaN and infinities are null. Text is escaped by orjson
once per distinct value. Lists have marks by which they are cut, see `forecache.serve.store.json_lists`.
"""

from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from forecache.kit.delta.comparison.partition import plain_type
from forecache.serve.store.json_lists import ITEM_END, LIST_END


def served_type(kind: pa.DataType) -> str | None:
    """The type of a field as a manifest names it (see `Field`); None for one that cannot be served."""
    kind = plain_type(kind)
    if pa.types.is_list(kind):
        item = _item_type(kind.value_type)
        return item and f"array<{item}>"
    return _scalar_type(kind)


def _item_type(kind: pa.DataType) -> str | None:
    if not pa.types.is_struct(kind):
        return _type_in_list(kind)
    members = {member.name: _type_in_list(member.type) for member in kind}
    if not members or None in members.values():
        return None
    return f"struct<{','.join(f'{name}:{found}' for name, found in members.items())}>"


def _type_in_list(kind: pa.DataType) -> str | None:
    # Single floats of 32 bits are widened; in a list that would double the bytes of a vector.
    return "float" if pa.types.is_float32(kind) else _scalar_type(kind)


def _scalar_type(kind: pa.DataType) -> str | None:
    if pa.types.is_floating(kind):
        return "double"
    if pa.types.is_integer(kind):
        return "bigint"
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_string(kind):
        return "string"
    if pa.types.is_date(kind):
        return "date"
    return "timestamp" if pa.types.is_timestamp(kind) else None


def json_texts(column: pa.Array, kind: str) -> pa.Array:
    """The JSON text of every value (string array without nulls).

    Args:
        kind: The field's type, from `served_type`.
    """
    if kind.startswith("array<"):
        return _list_texts(column)
    if kind == "double":
        return _float_texts(column.cast(pa.float64()))
    if kind == "float":
        return _float_texts(column)
    if kind == "string":
        return _string_texts(column)
    if kind == "timestamp":
        texts = _timestamp_texts(column)
    elif kind == "date":
        texts = pc.binary_join_element_wise('"', column.cast(pa.string()), '"', "")
    else:
        texts = column.cast(pa.string())
    return texts.fill_null("null")


def _float_texts(column: pa.Array) -> pa.Array:
    texts = pc.cast(column, pa.string())
    whole = pc.equal(pc.trunc(column), column).fill_null(False)
    if pc.any(whole).as_py():
        # Arrow writes most whole floats as `1`; with `.0` they stay floats in every JSON parser.
        bare = pc.and_(whole, pc.invert(pc.match_substring(texts, "e").fill_null(False)))
        texts = pc.if_else(bare, pc.binary_join_element_wise(texts, ".0", ""), texts)
    if not pc.all(pc.is_finite(column)).as_py():
        texts = pc.if_else(pc.is_finite(column), texts, "null")
    return texts.fill_null("null") if texts.null_count else texts


def _string_texts(column: pa.Array) -> pa.Array:
    distinct = column if isinstance(column, pa.DictionaryArray) else column.dictionary_encode()
    texts = [orjson.dumps(value).decode() for value in distinct.dictionary.to_pylist()]
    places = distinct.indices
    if places.null_count:
        places = places.fill_null(len(texts))
        texts.append("null")
    return pa.array(texts, pa.string()).take(places)


def _timestamp_texts(column: pa.Array) -> pa.Array:
    moments = column.cast(pa.timestamp("us"))
    return pc.binary_join_element_wise('"', pc.strftime(moments, "%Y-%m-%dT%H:%M:%S"), 'Z"', "")


def _list_texts(column: pa.Array) -> pa.Array:
    valid = column.is_valid()
    lengths = pc.if_else(valid, pc.list_value_length(column), 0).to_numpy()
    items = column.flatten()
    texts = (
        _struct_texts(items) if pa.types.is_struct(items.type) else json_texts(items, str(_type_in_list(items.type)))
    )
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    joined = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), texts), ITEM_END + ",")
    ends = pc.if_else(pa.array(lengths > 0), LIST_END + "]", "]")
    lists = pc.binary_join_element_wise("[", joined, ends, "")
    return pc.if_else(valid, lists, "null") if column.null_count else lists


def _struct_texts(column: pa.Array) -> pa.Array:
    pieces: list[Any] = []
    for position, (member, values) in enumerate(zip(column.type, column.flatten(), strict=True)):
        pieces.append(("," if position else "{") + orjson.dumps(member.name).decode() + ":")
        pieces.append(json_texts(values, str(_type_in_list(member.type))))
    texts = pc.binary_join_element_wise(*pieces, "}", "")
    return pc.if_else(column.is_valid(), texts, "null") if column.null_count else texts
