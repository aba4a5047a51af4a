"""Rows of numbers packed into entries of one width: little-endian float32, in the order of the fields.

A null is NaN, and every NaN has the same bits, so that equal rows have equal entries. In a live view the bits of its
states (int64, float64) follow; they are copied and never used as float32.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.base.errors import InputError
from forecache.declare.served import PackedLayout
from forecache.kit.delta.comparison.partition import plain_type
from forecache.kit.windows.states import column_words
from forecache.serve.store.manifest import STATE, Field
from forecache.serve.store.values import FLOAT, FLOAT_BYTES


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
    """The entry of every row, binary [n].

    Args:
        columns: Of the fields, in their order; states are the last.
        key_of: Names the key of a row, for messages.

    Raises:
        InputError: A whole number is not exact in float32, or a vector has another size than its field.
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
    """The values of a field, float32 [n, size]."""
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
