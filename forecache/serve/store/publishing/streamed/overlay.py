"""The overlay of a publish: the last streamed row of each key up to the cut-off, if the batch cannot include its event.

The batch of an as-of date includes the events up to the end of that date. It does not include those of later days, nor
late ones that arrived after it was computed: their rows name that as-of date, or a later one, as their base.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from forecache.base.settings import Settings
from forecache.declare import PROVENANCE_COLUMNS
from forecache.serve.store.encoding.encoder import Encoder
from forecache.serve.store.encoding.entries import ROW_AS_OF, EntryEncoding, encode_keys
from forecache.serve.store.encoding.stream_source import StreamTable, open_stream_table
from forecache.serve.store.encoding.streamed_rows import (
    BASE,
    EVENT_DAY,
    LATE,
    MODEL_VERSION,
    PLACE,
    POSITION,
    RECEIVED_AT,
    LatestRows,
    cast_to_served_types,
    drop_unanswered,
    hour_of,
    moments_of,
)
from forecache.serve.store.fields import Field
from forecache.serve.store.keys import KeySchema
from forecache.serve.store.live.layer import LiveLayer


@dataclass(frozen=True)
class Overlay:
    """Streamed rows over the batch of an as-of date.

    Attributes:
        cut: Cut-off: the Delta version of the stream's table up to which the version includes it; -1 without a table.
        is_merged: Whether the stream's rows are tiles, which are merged when rows are read: then there are no `rows`.
        rows: The last row of each key that the batch cannot include, with `model_version`, `base`, `received_at` and
            `event_day`; None for none.
    """

    stream: str
    table: str
    table_id: str
    cut: int
    is_merged: bool
    rows: pa.Table | None
    key: KeySchema
    fields: tuple[Field, ...]

    @property
    def num_rows(self) -> int:
        return 0 if self.rows is None else len(self.rows)

    @cached_property
    def keys(self) -> pa.Array:
        """Keys of the rows, binary."""
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

    def encode_rows(self, encoding: EntryEncoding, *, model_name: str) -> tuple[Encoder, pa.Array, pa.Array]:
        """Encode the rows: (encoder with their figures, keys, entries)."""
        encoder = Encoder(encoding, 1)
        keys, entries = [], []
        if self.rows is None:
            return encoder, pa.array([], pa.binary()), pa.array([], pa.binary())
        for batch in self._add_provenance(self.rows, model_name).to_batches(max_chunksize=encoding.batch_rows):
            some = encoder.encode(batch, "streamed row {}", encoder.rows)
            keys.append(some[0])
            entries.append(some[1])
        return encoder, pa.concat_arrays(keys), pa.concat_arrays(entries)

    def _add_provenance(self, rows: pa.Table, model_name: str) -> pa.Table:
        """Add the columns of the rows' provenance."""
        rows = cast_to_served_types(rows, self.fields).combine_chunks()
        numbers = pc.extract_regex(rows.column(BASE), r"@(?P<version>[0-9]+)")
        base = pc.struct_field(numbers, "version").cast(pa.int64())
        # A late event is of an earlier day, but its row also includes everything in the as-of date of its base.
        day = pc.max_element_wise(rows.column(EVENT_DAY).cast(pa.string()), _nights_of(rows))
        told = (
            pa.repeat(model_name, len(rows)),
            rows.column(MODEL_VERSION).cast(pa.int32()),
            base,
            hour_of(rows.column(RECEIVED_AT)),
            pa.repeat(f"stream {self.stream}", len(rows)),
        )
        for name, column in zip((*PROVENANCE_COLUMNS, ROW_AS_OF), (*told, day), strict=True):
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
        names = [*key.names, *(field.name for field in fields), MODEL_VERSION, BASE, RECEIVED_AT]
        rows = unseen_rows(table, key, names, fields, night=night, cut=table.version)
    return Overlay(layer.stream, layer.table, table.id, table.version, layer.kind == "tiles", rows, key, tuple(fields))


def unseen_rows(
    table: StreamTable, key: KeySchema, names: Sequence[str], fields: Sequence[Field], *, night: date, cut: int
) -> pa.Table | None:
    """The last row of each key, up to the cut-off, that has an answer and is not included in the batch of `night`.

    Args:
        names: Columns, besides `position` and `place`.
        fields: The fields of an answer.

    Returns:
        None if there are none.
    """
    latest = LatestRows(key)
    columns = list(dict.fromkeys([*names, *(field.name for field in fields), POSITION, PLACE, EVENT_DAY, LATE, BASE]))
    where = (pc.field(EVENT_DAY) > pa.scalar(night)) | pc.field(LATE)
    for batch in table.batches(columns, up_to=cut, where=where):
        latest.add(drop_unanswered(batch.filter(_is_unseen(batch, night)), fields))
    return latest.rows()


def _is_unseen(rows: pa.Table, night: date) -> pa.ChunkedArray:
    """Mask of the rows of a later day, and of late rows whose base is at least as new as `night`."""
    late = pc.and_(rows.column(LATE), pc.greater_equal(_nights_of(rows), night.isoformat()))
    return pc.or_(pc.greater(rows.column(EVENT_DAY), pa.scalar(night)), late.combine_chunks().fill_null(False))


def _nights_of(rows: pa.Table) -> pa.ChunkedArray:
    """The as-of date of each row's base, as a text."""
    return pc.struct_field(pc.extract_regex(rows.column(BASE), r"(?P<night>[0-9]{4}-[0-9]{2}-[0-9]{2})@"), "night")
