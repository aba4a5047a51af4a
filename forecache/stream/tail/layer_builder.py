"""Builds the rows or tiles of a live layer from the rows of its stream's table, and compares both.

Sums are exact, so tiles do not depend on how rows are split into commits. Tiles of days that every published version
includes are not read; a layer may or may not have them.
"""

from collections.abc import Callable, Iterable
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.kit.windows.fold import event_states, fold
from forecache.kit.windows.plan import MergePlan, plan_from_json
from forecache.kit.windows.tiles import TileCodec
from forecache.serve.store.encoding.entries import encode_keys
from forecache.serve.store.encoding.streamed_rows import (
    EVENT_DAY,
    FEATURE_VERSION,
    MODEL_VERSION,
    PLACE,
    POSITION,
    RELEASE,
    LatestRows,
    StreamTable,
    drop_unanswered,
    moments_of,
    served_arrow_type,
    streamed_rows,
)
from forecache.serve.store.live.layer import LiveLayer, LiveRow, row_of
from forecache.serve.store.live.writer import LiveWriter
from forecache.stream.table.schema import add_missing_columns
from forecache.stream.tail.layer_comparison import (
    EPOCH,
    ComparisonResult,
    TileChanges,
    TileComparison,
    compare_rows,
    older_table_result,
)

Rows = list[tuple[bytes, LiveRow]]


class RowLayerBuilder:
    """Builds and compares a layer whose value for a key is its last row."""

    def __init__(self, layer: LiveLayer) -> None:
        self._layer = layer
        self._needed = tuple(dict.fromkeys([*layer.key.names, layer.event_time, POSITION, PLACE]))

    def rows_of_commit(self, rows: pa.Table, writer: LiveWriter) -> Rows:
        """Return the layer's new rows for the keys of a commit's rows."""
        del writer
        return self._encode_rows(self._select_answers(rows))

    def rows_of_table(
        self, table: StreamTable, *, above: int, up_to: int, since: date | None = None, writer: LiveWriter | None = None
    ) -> Rows:
        """Return the layer's rows, one of each key, built from the table's rows with positions in (above, up_to].

        Events of days before `since` are left out. The rows of the layer of `writer` are continued; without one, the
        layer is empty before.
        """
        del writer
        latest = LatestRows(self._layer.key)
        where = None if since is None else pc.field(EVENT_DAY) >= pa.scalar(since)
        for batch in table.batches(self._columns(table.columns), above=above, up_to=up_to, where=where):
            latest.add(self._select_answers(batch))
        rows = latest.rows()
        return [] if rows is None else self._encode_rows(rows)

    def needs_full_comparison(self, writer: LiveWriter) -> bool:
        """True if the next comparison reads all rows of the table that count, not only those since the last one."""
        return writer.verified_through < 0

    def prepare_comparison(
        self, writer: LiveWriter, open_table: Callable[[], StreamTable]
    ) -> Callable[[], ComparisonResult]:
        """Return a function that compares a layer with its table; it may run in another thread than the caller's.

        `open_table` is called after the layer was read, so that the table includes all rows of the layer.
        """
        since = writer.verified_through

        def expected_rows(table: StreamTable, above: int, up_to: int) -> Rows:
            return self.rows_of_table(table, above=above, up_to=up_to)

        return lambda: compare_rows(writer, expected_rows, open_table, since=since)

    def _select_answers(self, rows: pa.Table) -> pa.Table:
        return drop_unanswered(rows, self._layer.fields) if self._layer.replaces_rows else rows

    def _columns(self, there: Iterable[str]) -> list[str]:
        wanted = [*self._needed, *(field.name for field in self._layer.fields), MODEL_VERSION, RELEASE, FEATURE_VERSION]
        known = set(there)
        return [name for name in dict.fromkeys(wanted) if name in known or name in self._needed]

    def _encode_rows(self, rows: pa.Table) -> Rows:
        layer = self._layer
        rows = rows.select(self._columns(rows.column_names))
        # A file from before an output was declared lacks its column.
        rows = add_missing_columns(rows, (pa.field(field.name, served_arrow_type(field)) for field in layer.fields))
        return streamed_rows(rows, layer.key, layer.fields, event_time=layer.event_time)


class TileLayerBuilder:
    """Builds and compares a layer whose value for a key are its tiles; see `RowLayerBuilder`.

    `night` returns the smallest as-of date of the published versions; None if there is none: then all days count.
    """

    def __init__(self, layer: LiveLayer, night: Callable[[], date | None]) -> None:
        self._layer, self._night = layer, night
        self._plan: MergePlan = plan_from_json(dict(layer.plan))
        self._tiles = TileCodec(self._plan)
        self._changes = TileChanges()
        self._not_compared: TileChanges | None = None  # since the last comparison that came to its end

    def rows_of_commit(self, rows: pa.Table, writer: LiveWriter) -> Rows:
        return list(self._fold(rows, lambda keys: self._record_changes(writer, keys)).items())

    def rows_of_table(
        self, table: StreamTable, *, above: int, up_to: int, since: date | None = None, writer: LiveWriter | None = None
    ) -> Rows:
        if writer is None:
            self._changes = TileChanges()  # the layer is rebuilt: recorded changes are of other content
        made: dict[bytes, LiveRow] = {}

        def rows_before(keys: list[bytes]) -> list[LiveRow | None]:
            held = [None] * len(keys) if writer is None else self._record_changes(writer, keys)
            return [made.get(key, row) for key, row in zip(keys, held, strict=True)]

        for rows in table.ordered_batches(self._columns(table), above=above, up_to=up_to, where=_day_filter(since)):
            made.update(self._fold(rows, rows_before))
        return list(made.items())

    def needs_full_comparison(self, writer: LiveWriter) -> bool:
        del writer
        return self._changes.base is None or (self._not_compared is not None and self._not_compared.base is None)

    def prepare_comparison(
        self, writer: LiveWriter, open_table: Callable[[], StreamTable]
    ) -> Callable[[], ComparisonResult]:
        """Compare all tiles with those folded from the table; in later comparisons only those of changed keys.

        Tiles at a version are those of an earlier version with the events of the commits in between folded in. So if
        the layer was equal to the table at one version, and has the content hash that the commits recorded, only keys
        that changed since have to be folded. The changes of a failed comparison are added to the next one.
        """
        changes = self._changes if self._not_compared is None else self._changes.merge_older(self._not_compared)
        self._not_compared, self._changes = changes, TileChanges(writer.applied)
        look = TileComparison(self._tiles, self._night() or EPOCH, writer, changes, self._changes)

        def run_comparison() -> ComparisonResult:
            table = open_table()
            if table.version < look.version:
                return older_table_result(look.version, table.version)
            expected = self._fold_all(table, look) if changes.base is None else self._fold_changed(table, look)
            found = look.compare(expected, self._night() or EPOCH)
            # After a difference, the recorded tiles cannot be trusted.
            self._not_compared = TileChanges() if found.difference else None
            return found

        return run_comparison

    def _fold_all(self, table: StreamTable, look: TileComparison) -> dict[bytes, bytes | None]:
        made: dict[bytes, LiveRow] = {}
        rows_of = table.ordered_batches(
            self._columns(table), above=-1, up_to=look.version, where=_day_filter(look.night)
        )
        for rows in rows_of:
            made.update(self._fold(rows, lambda keys: [made.get(key) for key in keys]))
        return {key: row.value for key, row in made.items()}

    def _fold_changed(self, table: StreamTable, look: TileComparison) -> dict[bytes, bytes | None]:
        """Fold the events since the base version into the earlier tiles, of keys that changed or should have."""
        tiles = dict(look.changes.before)
        assert look.changes.base is not None
        columns = [*self._columns(table), PLACE]
        parts = list(table.batches(columns, above=look.changes.base, up_to=look.version, where=_day_filter(look.night)))
        if parts:
            rows = pa.concat_tables(parts)
            rows = rows.take(pa.array(np.argsort(moments_of(rows), kind="stable")))
            folded = self._fold(rows, lambda keys: [_row_of_tiles(value) for value in look.tiles_before(keys)])
            tiles.update((key, row.value) for key, row in folded.items())
        return tiles

    def _columns(self, table: StreamTable) -> list[str]:
        there = table.columns
        return [name for name in dict.fromkeys([*self._plan.reads, POSITION]) if name in there]

    def _record_changes(self, writer: LiveWriter, keys: list[bytes]) -> list[LiveRow | None]:
        """Record and return the current rows of keys that are about to change."""
        held = [None if record is None else row_of(record) for record in writer.get_many(keys)]
        self._changes.record(keys, (None if row is None else row.value for row in held))
        return held

    def _fold(self, rows: pa.Table, before: Callable[[list[bytes]], list[LiveRow | None]]) -> dict[bytes, LiveRow]:
        """Fold rows, in the order of the stream, into the tiles of their keys."""
        plan = self._plan
        rows = add_missing_columns(rows, plan.reads)
        encoded = encode_keys(rows, self._layer.key)
        if encoded.null_count:
            there = encoded.is_valid()
            rows, encoded = rows.filter(there), encoded.drop_null()
        if len(rows) == 0:
            return {}
        distinct = encoded.dictionary_encode()
        keys: list[bytes] = distinct.dictionary.to_pylist()
        codes = distinct.indices.to_numpy().astype(np.int64)
        at_us = rows.column(plan.time).cast(pa.int64()).combine_chunks().to_numpy()
        held = before(keys)
        folded = fold(
            plan, codes, at_us, event_states(plan, rows.select(list(plan.reads))),
            [None if row is None else row.value for row in held], None, None, self._night() or EPOCH, see="nothing",
        )  # fmt: skip
        newest = _largest_by_code(codes, at_us, [-1 << 63 if row is None else row.event_us for row in held])
        positions = _largest_by_code(codes, rows.column(POSITION).to_numpy(), [-1] * len(keys))
        values = zip(keys, positions, newest, folded.entries, strict=True)
        return {key: LiveRow(position, at, entry) for key, position, at, entry in values}


def _day_filter(day: date | None) -> pc.Expression | None:
    return None if day is None else pc.field(EVENT_DAY) >= pa.scalar(day)


def _row_of_tiles(tiles: bytes | None) -> LiveRow | None:
    return None if tiles is None else LiveRow(0, 0, tiles)


def _largest_by_code(codes: np.ndarray, values: np.ndarray, least: list[int]) -> list[int]:
    """The largest value of each code, at least `least`."""
    largest = np.array(least, np.int64)
    np.maximum.at(largest, codes, values)
    found: list[int] = largest.tolist()
    return found
