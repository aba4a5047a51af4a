"""Reading many keys of a snapshot as an Arrow table."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from forecache.key_types import as_arrow
from forecache.store.keys import decode_key, encode_key
from forecache.store.manifest import Manifest

_FIELD_TYPES = {"double": pa.float64(), "bigint": pa.int64(), "boolean": pa.bool_(), "string": pa.string()}


class Readable(Protocol):
    """A version that can be read: `Snapshot` or `RedisSnapshot`."""

    manifest: Manifest

    def get_many(self, keys: Iterable[bytes]) -> list[bytes | None]: ...


def take(snapshot: Readable, keys: Sequence[object]) -> pa.Table:
    """See `Snapshot.take`."""
    manifest = snapshot.manifest
    encoded = [key if isinstance(key, bytes) else encode_key(manifest.key, key) for key in keys]
    values = snapshot.get_many(encoded)
    decoded = [decode_key(manifest.key, key) for key in encoded]
    columns: dict[str, pa.Array] = {}
    for position, column in enumerate(manifest.key.columns):
        columns[column.name] = pa.array([parts[position] for parts in decoded], as_arrow(column.type))
    columns["found"] = pa.array([value is not None for value in values], pa.bool_())
    empty: dict[str, object] = {}
    rows = [empty if value is None else orjson.loads(value) for value in values]
    for field in manifest.fields:
        texts_or_numbers = [row.get(field.name) for row in rows]
        if field.type == "date":
            columns[field.name] = pa.array(texts_or_numbers, pa.string()).cast(pa.date32())
        elif field.type == "timestamp":
            bare = pc.utf8_rtrim(pa.array(texts_or_numbers, pa.string()), "Z")
            columns[field.name] = bare.cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))
        else:
            columns[field.name] = pa.array(texts_or_numbers, _FIELD_TYPES[field.type])
    return pa.table(columns)
