"""The overlay of a publish: the last streamed row of each key up to the cut-off, if the batch cannot include its event.

The batch of an as-of date includes the events up to the end of that date. It does not include those of later days, nor
late ones that arrived after it was computed: their rows name that as-of date, or a later one, as their base.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from forecache.base.settings import Settings
from forecache.declare import PROVENANCE_COLUMNS
from forecache.serve.store.encoding.entries import ROW_AS_OF, Encoder, EntryEncoding, encode_keys, short_lists
from forecache.serve.store.encoding.streamed_rows import (
    EVENT_DAY,
    FEATURE_VERSION,
    LATE,
    MODEL_VERSION,
    PLACE,
    POSITION,
    RECEIVED_AT,
    LatestRows,
    StreamTable,
    cast_to_served_types,
    drop_unanswered,
    moments_of,
    open_stream_table,
)
from forecache.serve.store.keys import KeySchema
from forecache.serve.store.live.layer import LiveLayer
from forecache.serve.store.manifest import Field
from forecache.serve.store.segment.index import key_hashes


@dataclass(frozen=True)
class Overlay:
    stream: str
    table: str
    table_id: str
    cut: int  # Delta version of the stream's table up to which it is included; -1: no table
    is_merged: bool  # the rows are tiles, merged when rows are read: then `rows` is None
    rows: pa.Table | None  # the last row of each key that the batch cannot include, with columns of its origin
    key: KeySchema
    fields: tuple[Field, ...]

    @property
    def num_rows(self) -> int:
        return 0 if self.rows is None else len(self.rows)

    @cached_property
    def keys(self) -> pa.Array:
        return pa.array([], pa.binary()) if self.rows is None else encode_keys(self.rows, self.key)

    @cached_property
    def digest(self) -> str:
        """Identifies the rows: equal digests mean equal overlays; "" for no rows."""
        if self.rows is None:
            return ""
        # No row of a stream's table is ever changed, so their ranks identify the rows.
        places = np.sort(moments_of(self.rows))
        return f"{self.stream}:{self.table_id}:{self.num_rows}:{xxhash.xxh3_128_hexdigest(places.tobytes())}"

    def num_above(self, position: int) -> int:
        """Number of rows with an offset above this one: new ones, compared with a version that has this cut-off."""
        return 0 if self.rows is None else int(pc.sum(pc.greater(self.rows.column(POSITION), position)).as_py() or 0)

    def encode_rows(self, encoding: EntryEncoding) -> tuple[Encoder, pa.Array, pa.Array]:
        """Encode the rows: (encoder with their figures, keys, entries)."""
        encoder, keys, entries = Encoder(encoding, 1), [], []
        if self.rows is None:
            return encoder, pa.array([], pa.binary()), pa.array([], pa.binary())
        for batch in self._add_provenance(self.rows, encoding.provenance.model_name).to_batches(
            max_chunksize=encoding.batch_rows
        ):
            some = encoder.encode(batch, "streamed row {}", encoder.rows)
            keys.append(some[0])
            entries.append(some[1])
        return encoder, pa.concat_arrays(keys), pa.concat_arrays(entries)

    def _add_provenance(self, rows: pa.Table, model_name: str) -> pa.Table:
        rows = cast_to_served_types(rows, self.fields).combine_chunks()
        base = pc.struct_field(pc.extract_regex(rows.column(FEATURE_VERSION), r"@(?P<version>[0-9]+)"), "version")
        told = (
            pa.repeat(model_name, len(rows)),
            rows.column(MODEL_VERSION).cast(pa.int32()),
            base.cast(pa.int64()),
            pc.floor_temporal(rows.column(RECEIVED_AT), unit="hour"),  # so that many rows have the same provenance
            pa.repeat(f"stream {self.stream}", len(rows)),
            # A late event is of an earlier day, but its row also includes everything in the as-of date of its base.
            pc.max_element_wise(rows.column(EVENT_DAY).cast(pa.string()), _nights_of(rows)),
        )
        for name, column in zip((*PROVENANCE_COLUMNS, ROW_AS_OF), told, strict=True):
            place = rows.schema.get_field_index(name)
            rows = rows.append_column(name, column) if place < 0 else rows.set_column(place, name, column)
        return rows


def open_overlay(
    settings: Settings, layer: LiveLayer | None, *, key: KeySchema, fields: Sequence[Field], night: date
) -> Overlay | None:
    """The overlay of an as-of date at the newest version of the stream's table; None without a live layer."""
    if layer is None:
        return None
    table = open_stream_table(settings, layer.table)
    rows = None
    if layer.kind == "rows":
        names = [*key.names, *(field.name for field in fields), MODEL_VERSION, FEATURE_VERSION, RECEIVED_AT]
        rows = unseen_rows(table, key, names, fields, night=night, cut=table.version)
    return Overlay(layer.stream, layer.table, table.id, table.version, layer.kind == "tiles", rows, key, tuple(fields))


def unseen_rows(
    table: StreamTable,
    key: KeySchema,
    names: Sequence[str],
    fields: Sequence[Field],
    *,
    night: date,
    cut: int,
    only: pc.Expression | None = None,
) -> pa.Table | None:
    """The last row of each key, up to the cut-off, that has an answer and is not included in the batch of `night`.

    It has the columns `names` besides `position` and `place`. None: there are no such rows. `only` is a condition on
    the keys.
    """
    latest = LatestRows(key)
    columns = list(
        dict.fromkeys([*names, *(field.name for field in fields), POSITION, PLACE, EVENT_DAY, LATE, FEATURE_VERSION])
    )
    where = (pc.field(EVENT_DAY) > pa.scalar(night)) | pc.field(LATE)
    where = where if only is None else where & only
    for batch in table.batches(columns, up_to=cut, where=where):
        latest.add(drop_unanswered(batch.filter(_is_unseen(batch, night)), fields))
    return latest.rows()


def _is_unseen(rows: pa.Table, night: date) -> pa.ChunkedArray:
    """Mask of the rows of a later day, and of late rows whose base is at least as new as `night`."""
    late = pc.and_(rows.column(LATE), pc.greater_equal(_nights_of(rows), night.isoformat()))
    return pc.or_(pc.greater(rows.column(EVENT_DAY), pa.scalar(night)), late.combine_chunks().fill_null(False))


def _nights_of(rows: pa.Table) -> pa.ChunkedArray:
    return pc.struct_field(
        pc.extract_regex(rows.column(FEATURE_VERSION), r"(?P<night>[0-9]{4}-[0-9]{2}-[0-9]{2})@"), "night"
    )


_ROWS = pa.schema([("hash", pa.uint64()), ("key", pa.binary())])


class KeySet:
    """A set of keys by hash; keys with equal hashes are compared."""

    def __init__(self, hashes: np.ndarray, keys: pa.Array) -> None:
        """`hashes` are sorted, uint64 [n], and `keys` (binary) in their order."""
        self._hashes, self._keys = hashes, keys
        self._collide = bool((hashes[1:] == hashes[:-1]).any())

    def __len__(self) -> int:
        return len(self._keys)

    def mask(self, keys: pa.Array) -> np.ndarray:
        """Mask of the keys (binary) that are in the set, bool [n]."""
        if len(self._keys) == 0 or len(keys) == 0:
            return np.zeros(len(keys), bool)
        if self._collide:
            return np.asarray(pc.is_in(keys, self._keys))
        hashes = _hashes_of(keys)
        places = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        found: np.ndarray = self._hashes[places] == hashes
        there = np.flatnonzero(found)
        equal = pc.equal(keys.take(pa.array(there)), self._keys.take(pa.array(places[there])))
        found[there] = np.asarray(equal)
        return found

    def write(self, path: Path) -> None:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, _ROWS) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays([pa.array(self._hashes), self._keys], schema=_ROWS))


def make_key_set(keys: pa.Array) -> KeySet:
    hashes = _hashes_of(keys)
    order = np.argsort(hashes, kind="stable")
    return KeySet(hashes[order], keys.take(pa.array(order)))


def read_key_set(path: Path) -> KeySet:
    """The set that `KeySet.write` wrote, mapped."""
    batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    return KeySet(batch.column(0).to_numpy(), batch.column(1))


def _hashes_of(keys: pa.Array) -> np.ndarray:
    return np.concatenate([key_hashes(some) for some in short_lists(keys)])
