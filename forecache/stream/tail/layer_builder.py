"""Builds the rows of a live layer from those of its stream's table, and compares both."""

from collections.abc import Callable, Iterable
from datetime import date
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from forecache.serve.store.encoding.streamed_rows import (
    BASE,
    EVENT_DAY,
    MODEL_VERSION,
    PLACE,
    POSITION,
    RELEASE,
    LatestRows,
    StreamTable,
    drop_unanswered,
    served_arrow_type,
    streamed_rows,
)
from forecache.serve.store.live.layer import LiveLayer, LiveRow
from forecache.serve.store.live.writer import LiveWriter
from forecache.stream.tail.layer_comparison import ComparisonResult, compare_rows

Rows = list[tuple[bytes, LiveRow]]


class LayerBuilder(Protocol):
    """Builds and compares one kind of layer."""

    def rows_of_commit(self, rows: pa.Table, writer: LiveWriter) -> Rows:
        """Return the layer's new rows for the keys of a commit's rows."""

    def rows_of_table(
        self, table: StreamTable, *, above: int, up_to: int, since: date | None = None, writer: LiveWriter | None = None
    ) -> Rows:
        """Return the layer's rows, one of each key, built from the table's rows with positions in (above, up_to].

        Args:
            since: Leave out events of earlier days.
            writer: The writer of the layer whose rows are continued; None: begin with an empty layer.
        """

    def needs_full_comparison(self, writer: LiveWriter) -> bool:
        """True if the next comparison reads all rows of the table that count, not only those since the last one."""

    def prepare_comparison(
        self, writer: LiveWriter, open_table: Callable[[], StreamTable]
    ) -> Callable[[], ComparisonResult]:
        """Return a function that compares a layer with its table; it may run in another thread than the caller's.

        Args:
            open_table: Called after the layer was read, so that the table includes all rows of the layer.
        """


class RowLayerBuilder:
    """Builds a layer whose value for a key is its last row."""

    def __init__(self, layer: LiveLayer) -> None:
        self._layer = layer
        self._needed = tuple(dict.fromkeys([*layer.key.names, layer.event_time, POSITION, PLACE]))

    def rows_of_commit(self, rows: pa.Table, writer: LiveWriter) -> Rows:
        del writer
        return self._encode_rows(self._select_answers(rows))

    def rows_of_table(
        self, table: StreamTable, *, above: int, up_to: int, since: date | None = None, writer: LiveWriter | None = None
    ) -> Rows:
        del writer
        latest = LatestRows(self._layer.key)
        where = None if since is None else pc.field(EVENT_DAY) >= pa.scalar(since)
        for batch in table.batches(self._columns(table.columns), above=above, up_to=up_to, where=where):
            latest.add(self._select_answers(batch))
        rows = latest.rows()
        return [] if rows is None else self._encode_rows(rows)

    def needs_full_comparison(self, writer: LiveWriter) -> bool:
        return writer.verified_through < 0

    def prepare_comparison(
        self, writer: LiveWriter, open_table: Callable[[], StreamTable]
    ) -> Callable[[], ComparisonResult]:
        since = writer.verified_through

        def expected_rows(table: StreamTable, above: int, up_to: int) -> Rows:
            return self.rows_of_table(table, above=above, up_to=up_to)

        return lambda: compare_rows(writer, expected_rows, open_table, since=since)

    def _select_answers(self, rows: pa.Table) -> pa.Table:
        return drop_unanswered(rows, self._layer.fields) if self._layer.replaces_rows else rows

    def _columns(self, there: Iterable[str]) -> list[str]:
        wanted = [*self._needed, *(field.name for field in self._layer.fields), MODEL_VERSION, RELEASE, BASE]
        known = set(there)
        return [name for name in dict.fromkeys(wanted) if name in known or name in self._needed]

    def _encode_rows(self, rows: pa.Table) -> Rows:
        layer = self._layer
        rows = rows.select(self._columns(rows.column_names))
        for field in layer.fields:  # a file from before an output was declared lacks its column
            if field.name not in rows.column_names:
                rows = rows.append_column(field.name, pa.nulls(len(rows), served_arrow_type(field)))
        return streamed_rows(rows, layer.key, layer.fields, event_time=layer.event_time)


def layer_builder_of(layer: LiveLayer, night: Callable[[], date | None]) -> LayerBuilder:
    """Return the builder of a layer's kind.

    Args:
        night: Returns the smallest as-of date of the published versions; None if there is none.
    """
    if layer.kind == "rows":
        return RowLayerBuilder(layer)
    from forecache.stream.tail.tile_layer_builder import TileLayerBuilder

    return TileLayerBuilder(layer, night)
