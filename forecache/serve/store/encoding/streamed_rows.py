"""Encoding of rows of a stream's table, for live layers and for publishes.

The value of a row is byte for byte equal to a published entry of the same fields, so that an answer does not depend on
its source.
"""

from collections.abc import Sequence
from functools import reduce

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from forecache.kit.delta.comparison.compare import match_keys
from forecache.kit.delta.comparison.partition import to_plain_types
from forecache.serve.store.encoding.encoder import refuse_bad_keys
from forecache.serve.store.encoding.entries import EntryEncoding, encode_entries, encode_keys
from forecache.serve.store.fields import Field
from forecache.serve.store.keys import KeySchema
from forecache.serve.store.live.rows import LiveRow
from forecache.serve.store.manifest import Provenance

POSITION, PLACE, HOUR, EVENT_DAY, RECEIVED_AT = "position", "place", "hour", "event_day", "received_at"
MODEL_VERSION, RELEASE, BASE, LATE = "model_version", "release", "base", "late"
"""Columns of every stream's table; see `forecache.stream.table.schema`."""

_MADE_BY = (MODEL_VERSION, RELEASE, BASE)
_SERVED_AS = {
    "double": pa.float64(),
    "bigint": pa.int64(),
    "boolean": pa.bool_(),
    "string": pa.string(),
    "date": pa.date32(),
}
_NOBODY = Provenance("", -1, -1, "", "")
PLACES_OF_A_COMMIT = 1 << 31
"""A row's moment, its rank in the stream, is `position` times this plus `place`."""
_WAITING_ROWS = 1 << 20


def streamed_rows(
    rows: pa.Table, key: KeySchema, fields: Sequence[Field], *, event_time: str
) -> list[tuple[bytes, LiveRow]]:
    """The key and the live row of every row.

    Args:
        rows: With the columns of the key and the fields, `position`, and `event_time`; `model_version`, `release` and
            `base`, if present, are the row's provenance.
        event_time: Column of the event's time, a timestamp or a date.

    Raises:
        InputError: A key is null, empty or too long.
    """
    if len(rows) == 0:
        return []
    rows = cast_to_served_types(rows, fields).combine_chunks()
    (batch,) = rows.to_batches()
    keys = encode_keys(batch, key)
    refuse_bad_keys(batch, keys, key, "row {} of a stream", 0)
    values, _, _ = encode_entries(batch, EntryEncoding(key, tuple(fields), _NOBODY), _NOBODY)
    times = batch.column(event_time).cast(pa.timestamp("us", "UTC")).cast(pa.int64()).fill_null(0)
    made_by = _provenances(batch)
    columns = (keys.to_pylist(), batch.column(POSITION).to_pylist(), times.to_pylist(), values.to_pylist(), made_by)
    return [(each, LiveRow(position, at, value, by)) for each, position, at, value, by in zip(*columns, strict=True)]


def _provenances(batch: pa.RecordBatch) -> list[bytes]:
    """The provenance of every row as JSON; a batch has few different ones."""
    names = [name for name in _MADE_BY if name in batch.schema.names]
    if not names:
        return [b""] * len(batch)
    known: dict[tuple[object, ...], bytes] = {}
    found = []
    for values in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
        if values not in known:
            told = {name: value for name, value in zip(names, values, strict=True) if value is not None}
            known[values] = orjson.dumps(told) if told else b""
        found.append(known[values])
    return found


def drop_unanswered(rows: pa.Table, fields: Sequence[Field]) -> pa.Table:
    """Drop rows whose fields are all null: a row without an answer must not replace another one."""
    there = [rows.column(field.name).is_valid() for field in fields if field.name in rows.column_names]
    return rows.filter(reduce(pc.or_, there)) if there else rows


def served_arrow_type(field: Field) -> pa.DataType:
    """The Arrow type of a field's column."""
    return _SERVED_AS.get(field.type, pa.string())


def cast_to_served_types(rows: pa.Table, fields: Sequence[Field]) -> pa.Table:
    """Cast the fields to the types in which they are served."""
    rows = to_plain_types(rows)
    for field in fields:
        kind = _SERVED_AS.get(field.type)
        place = rows.schema.get_field_index(field.name)
        if kind is not None and rows.schema.field(place).type != kind:
            rows = rows.set_column(place, field.name, rows.column(place).cast(kind))
    return rows


class LatestRows:
    """Keeps the last row of every key, by position and place, of rows in any order; needs memory for the keys only."""

    def __init__(self, key: KeySchema) -> None:
        self._key = key
        self._waiting: list[pa.Table] = []
        self._num_waiting = 0

    def add(self, rows: pa.Table) -> None:
        """Add rows that have the key's columns, `position` and `place`."""
        self._waiting.append(to_plain_types(rows))
        self._num_waiting += len(rows)
        if self._num_waiting > _WAITING_ROWS and len(self._waiting) > 1:
            kept = self._keep_latest()
            # Kept rows do not count, so that many keys are not sorted again with each batch.
            self._waiting, self._num_waiting = [kept], 0

    def rows(self) -> pa.Table | None:
        """The last row of every key; None without rows."""
        return self._keep_latest() if any(map(len, self._waiting)) else None

    def _keep_latest(self) -> pa.Table:
        together = pa.concat_tables(self._waiting).combine_chunks()
        return together.take(pa.array(latest_places(together, self._key)))


def latest_places(rows: pa.Table, key: KeySchema) -> np.ndarray:
    """Indices of the last row of every key, int64 [keys], ascending."""
    keys = encode_keys(rows, key)
    batch = pa.RecordBatch.from_pydict({name: rows.column(name).combine_chunks() for name in key.names})
    refuse_bad_keys(batch, keys, key, "row {} of a stream", 0)
    return np.sort(match_keys(pa.chunked_array([keys]), 0, moments_of(rows)).after)


def moments_of(rows: pa.Table) -> np.ndarray:
    """Ranks of the rows in the order of the stream, int64 [n]."""
    moments: np.ndarray = (
        rows.column(POSITION).to_numpy().astype(np.int64) * PLACES_OF_A_COMMIT + rows.column(PLACE).to_numpy()
    )
    return moments


def hour_of(moments: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Round times down to the hour, so that many rows have the same provenance."""
    return pc.floor_temporal(moments, unit="hour")
