"""Values of a column: as JSON texts, by Arrow kernels without Python code per row, or packed as float32.

In JSON, floats have the shortest form that reads back to the same bits; NaN and infinities are null. Text is escaped by
orjson once per distinct value. Lists have marks by which they are cut, see `forecache.serve.store.values`.

Packed entries have one width: little-endian float32, in the order of the fields. A null is NaN, and every NaN has the
same bits, so that equal rows have equal entries. In a live view the bits of its states (int64, float64) follow; they
are copied and never used as float32.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from forecache.base.errors import InputError
from forecache.declare.served import PackedLayout
from forecache.kit.delta.comparison.partition import plain_type
from forecache.kit.windows.states import column_words
from forecache.serve.store.manifest import STATE, Field
from forecache.serve.store.values import FLOAT, FLOAT_BYTES, ITEM_END, LIST_END


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


_SCALARS = {
    "double": pa.types.is_floating,
    "bigint": pa.types.is_integer,
    "boolean": pa.types.is_boolean,
    "string": pa.types.is_string,
    "date": pa.types.is_date,
    "timestamp": pa.types.is_timestamp,
}


def _scalar_type(kind: pa.DataType) -> str | None:
    return next((name for name, is_of in _SCALARS.items() if is_of(kind)), None)


def json_texts(column: pa.Array, kind: str) -> pa.Array:
    """The JSON text of every value (string array without nulls); `kind` is the field's type, from `served_type`."""
    if kind.startswith("array<"):
        return _list_texts(column)
    if kind in ("double", "float"):
        return _float_texts(column.cast(pa.float64()) if kind == "double" else column)
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


def packed_fields(schema: pa.Schema, names: Sequence[str], packed: PackedLayout) -> tuple[Field, ...]:
    """The fields of a packed version; raises InputError for a column that is not numeric."""
    return tuple(_packed_field(name, plain_type(schema.field(name).type), packed.sizes.get(name)) for name in names)


def state_fields(names: Sequence[str]) -> tuple[Field, ...]:
    """The states of a live view as fields; each takes the place of two float32."""
    return tuple(Field(name, STATE, 2) for name in names)


def _packed_field(name: str, kind: pa.DataType, size: int | None) -> Field:
    numbers = kind if size is None else kind.value_type if pa.types.is_list(kind) else pa.null()
    if not (pa.types.is_floating(numbers) or (size is None and pa.types.is_integer(numbers))):
        raise InputError(
            f"The field {name!r} has the type {kind}, and is to be packed as "
            f"{'a float32' if size is None else f'{size} float32'}.",
            remedy="Publish numbers, and vectors of them.",
        )
    if size is not None:
        return Field(name, "vector", size)
    return Field(name, "integer" if pa.types.is_integer(kind) else "float")


def packed_entries(columns: Sequence[pa.Array], fields: Sequence[Field], key_of: Callable[[int], str]) -> pa.Array:
    """The entry of every row, binary [n], from the columns of the fields in their order, states last.

    Raises InputError if a whole number is not exact in float32, or a vector has another size than its field; `key_of`
    names the key of a row in the message.
    """
    width = sum(field.size for field in fields)
    num_numbers = sum(field.size for field in fields if field.type != STATE)
    rows = np.empty((len(columns[0]), width), FLOAT)
    place = 0
    for column, field in zip(columns, fields, strict=True):
        rows[:, place : place + field.size] = _numbers(column, field, key_of)
        place += field.size
    numbers = rows[:, :num_numbers]
    numbers[np.isnan(numbers)] = np.nan
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * np.int32(width * FLOAT_BYTES)
    return pa.Array.from_buffers(pa.binary(), len(rows), [None, pa.py_buffer(offsets), pa.py_buffer(rows)])


def _numbers(column: pa.Array, field: Field, key_of: Callable[[int], str]) -> np.ndarray:
    if field.type == "vector":
        return _vectors(column, field, key_of)
    if field.type == STATE:
        return column_words(column).view(FLOAT).reshape(len(column), 2)
    if field.type == "integer":
        whole = column.cast(pa.int64()).fill_null(0).to_numpy()
        numbers = whole.astype(FLOAT)
        with np.errstate(invalid="ignore"):  # the float32 next to the largest int64 is none
            wrong = np.flatnonzero((numbers.astype(np.int64) != whole) | (numbers >= 2.0**63))
        if len(wrong):
            row = int(wrong[0])
            raise InputError(
                f"The whole number {whole[row]:,} in the field {field.name!r} of the key {key_of(row)} is not "
                "exact in float32.",
                remedy="Declare the feature as a number, or leave it out of `publish.fields`; up to 16,777,216 all are "
                "exact.",
            )
        if column.null_count:
            numbers[np.asarray(column.is_null())] = np.nan
        return numbers[:, None]
    return column.cast(pa.float32()).fill_null(np.nan).to_numpy()[:, None]


def _vectors(column: pa.Array, field: Field, key_of: Callable[[int], str]) -> np.ndarray:
    lengths = pc.list_value_length(column)
    wrong = np.flatnonzero(np.asarray(pc.not_equal(lengths, field.size).fill_null(False)))
    if len(wrong):
        row = int(wrong[0])
        raise InputError(
            f"The vector {field.name!r} of the key {key_of(row)} has {lengths[row]} numbers where its field has "
            f"{field.size}.",
            remedy="Nothing was published. Build the features of that date anew.",
        )
    found = np.full((len(column), field.size), np.nan, FLOAT)
    items = column.flatten().cast(pa.float32()).fill_null(np.nan).to_numpy()
    found[np.asarray(column.is_valid())] = items.reshape(-1, field.size)
    return found
