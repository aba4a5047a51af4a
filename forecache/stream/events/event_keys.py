"""Encodes keys of events as stores do."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from forecache.base.errors import InputError
from forecache.base.key_types import DECLARED
from forecache.serve.store.keys import KeyColumn, KeySchema, encode_columns, encode_key


def key_schema(topic: Any, names: Sequence[str]) -> KeySchema:
    """The key schema of some columns of a topic's source."""
    types = {column.name: column.type for column in topic.columns}
    return KeySchema(tuple(KeyColumn(name, DECLARED[types[name]]) for name in names))


def encode_event_keys(schema: KeySchema, events: pa.Table) -> list[bytes | None]:
    """Encode the key of each event; None if a column is null or its value is no valid key."""
    columns = [_column_values(events[name]) for name in schema.names]
    if not any(events[name].null_count for name in schema.names):
        try:
            return list(encode_columns(schema, columns))
        except InputError:
            pass
    return [_encode_one(schema, values) for values in zip(*columns, strict=True)]


def _column_values(column: pa.ChunkedArray) -> Any:
    if pa.types.is_integer(column.type) and not column.null_count:
        return column.to_numpy()
    return column.to_pylist()


def _encode_one(schema: KeySchema, values: Sequence[Any]) -> bytes | None:
    try:
        return None if any(value is None for value in values) else encode_key(schema, values)
    except InputError:
        return None
