"""Rows of a stream's table, for publishes and the tailer: read by offset, and encoded for live layers.

No row is ever removed from the table, and the column `position` of a row is the Delta version that wrote it. So the
rows up to an offset are the table at that Delta version, even after the version was vacuumed and its files merged.
The value of a row is byte for byte equal to a published entry of the same fields.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from forecache.base.errors import NotFoundError
from forecache.base.settings import Settings
from forecache.kit.delta.comparison.compare import match_keys
from forecache.kit.delta.comparison.partition import to_plain_types
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_table
from forecache.serve.store.encoding.entries import EntryEncoding, encode_entries, encode_keys, refuse_bad_keys
from forecache.serve.store.keys import KeySchema
from forecache.serve.store.live.layer import LiveRow
from forecache.serve.store.manifest import Field, Provenance

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from pyarrow.dataset import Dataset


POSITION, PLACE, HOUR, EVENT_DAY, RECEIVED_AT = "position", "place", "hour", "event_day", "received_at"
MODEL_VERSION, RELEASE, FEATURE_VERSION, LATE = "model_version", "release", "feature_version", "late"
"""Columns of every stream's table; see `forecache.stream.table.schema`."""

_MADE_BY = (MODEL_VERSION, RELEASE, FEATURE_VERSION)
_SERVED_AS = {
    "double": pa.float64(),
    "bigint": pa.int64(),
    "boolean": pa.bool_(),
    "string": pa.string(),
    "date": pa.date32(),
}
_NOBODY = Provenance("", -1, -1, "", "")
PLACES_OF_A_COMMIT = 1 << 31  # a row's moment, its rank in the stream, is `position` times this plus `place`
_WAITING_ROWS = 1 << 20


def streamed_rows(
    rows: pa.Table, key: KeySchema, fields: Sequence[Field], *, event_time: str
) -> list[tuple[bytes, LiveRow]]:
    """The key and the live row of every row; raises InputError for a key that is null, empty or too long.

    The rows have the columns of the key and the fields, `position`, and `event_time`, a timestamp or a date;
    `model_version`, `release` and `feature_version`, if present, are the row's provenance.
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
    return _SERVED_AS.get(field.type, pa.string())


def cast_to_served_types(rows: pa.Table, fields: Sequence[Field]) -> pa.Table:
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
        return self._keep_latest() if any(map(len, self._waiting)) else None

    def _keep_latest(self) -> pa.Table:
        rows = pa.concat_tables(self._waiting).combine_chunks()
        keys = encode_keys(rows, self._key)
        batch = pa.RecordBatch.from_pydict({name: rows.column(name).combine_chunks() for name in self._key.names})
        refuse_bad_keys(batch, keys, self._key, "row {} of a stream", 0)
        return rows.take(pa.array(np.sort(match_keys(pa.chunked_array([keys]), 0, moments_of(rows)).after)))


def moments_of(rows: pa.Table) -> np.ndarray:
    """Ranks of the rows in the order of the stream, int64 [n]."""
    moments: np.ndarray = (
        rows.column(POSITION).to_numpy().astype(np.int64) * PLACES_OF_A_COMMIT + rows.column(PLACE).to_numpy()
    )
    return moments


_BATCH_ROWS = 1 << 16


@dataclass(frozen=True)
class StreamTable:
    """A stream's table at its newest version; version -1 and no rows if it does not exist yet."""

    settings: Settings
    name: str
    version: int
    id: str  # changes if the table is removed and created again

    def batches(
        self, columns: Sequence[str], *, above: int = -1, up_to: int | None = None, where: pc.Expression | None = None
    ) -> Iterator[pa.Table]:
        """The rows whose offset is greater than `above` and at most `up_to` (None: all), in no particular order."""
        if self.version >= 0:
            dataset = open_dataset(self._open())
            yield from self._scan(dataset, columns, above=above, up_to=up_to, where=where)

    def ordered_batches(
        self, columns: Sequence[str], *, above: int = -1, up_to: int | None = None, where: pc.Expression | None = None
    ) -> Iterator[pa.Table]:
        """As `batches`, in the order of the stream, an hour of commits at a time; needs the memory of an hour."""
        if self.version < 0:
            return
        table = self._open()
        for hour in sorted({str(values[HOUR]) for values in table.partitions()}):
            # A data set caches the footers of all files that it has read, so each hour gets a new one.
            of_hour = open_dataset(table, partitions=[(HOUR, "=", hour)])
            parts = list(self._scan(of_hour, [*columns, PLACE], above=above, up_to=up_to, where=where))
            if parts:
                rows = pa.concat_tables(parts)
                yield rows.take(pa.array(np.argsort(moments_of(rows), kind="stable")))

    def _open(self) -> "DeltaTable":
        return open_table(self.settings, self.name, version=self.version)

    def _scan(
        self, dataset: "Dataset", columns: Sequence[str], *, above: int, up_to: int | None, where: pc.Expression | None
    ) -> Iterator[pa.Table]:
        last = self.version if up_to is None else up_to
        condition = (pc.field(POSITION) > above) & (pc.field(POSITION) <= last)
        if where is not None:
            condition &= where
        # Little read-ahead: files are small, and each batch read ahead takes memory.
        scanner = dataset.scanner(list(columns), condition, batch_size=_BATCH_ROWS, batch_readahead=2)
        for batch in scanner.to_batches():
            if len(batch):
                yield pa.Table.from_batches([batch])

    def newest_day(self) -> date | None:
        """The newest day of an event, by the statistics of the files; None without statistics."""
        if self.version < 0:
            return None
        actions = self._open().get_add_actions(flatten=True)
        name = f"max.{EVENT_DAY}"
        if name not in actions.schema.names:
            return None
        newest = pc.max(pa.array(actions.column(name))).as_py()
        return newest if newest is None or isinstance(newest, date) else date.fromisoformat(str(newest))

    @property
    def columns(self) -> frozenset[str]:
        """Names of the table's columns; empty if there is no table."""
        if self.version < 0:
            return frozenset()
        return frozenset(field.name for field in open_table(self.settings, self.name).schema().fields)


def open_stream_table(settings: Settings, name: str) -> StreamTable:
    try:
        table = open_table(settings, name)
    except NotFoundError:
        return StreamTable(settings, name, -1, "")
    return StreamTable(settings, name, table.version(), str(table.metadata().id))
