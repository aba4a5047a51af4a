"""Builds the live layer of a view: tiles, folded from the rows of a stream's table.

Sums are exact, so tiles do not depend on how rows are split into commits. Tiles of days that every published version
includes are not read; a layer may or may not have them.
"""

from collections.abc import Callable
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.kit.windows.fold import event_states, fold
from forecache.kit.windows.plan import MergePlan, plan_from_json
from forecache.kit.windows.tiles import TileCodec
from forecache.serve.store.encoding.entries import encode_keys
from forecache.serve.store.encoding.streamed_rows import EVENT_DAY, PLACE, POSITION, StreamTable, moments_of
from forecache.serve.store.live.layer import LiveLayer, LiveRow, row_of
from forecache.serve.store.live.writer import LiveWriter
from forecache.stream.tail.layer_comparison import EPOCH, ComparisonResult, TileChanges, TileComparison

Rows = list[tuple[bytes, LiveRow]]


class TileLayerBuilder:
    """Builds a layer whose value for a key are its tiles.

    Args:
        night: Returns the smallest as-of date of the published versions; None if there is none: then all days count.
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
                return look.older_table_result(table.version)
            expected = self._fold_all(table, look) if changes.base is None else self._fold_changed(table, look)
            found = look.compare(expected, self._night() or EPOCH)
            # After a difference, the recorded tiles cannot be trusted.
            self._not_compared = TileChanges() if found.difference else None
            return found

        return run_comparison

    def _fold_all(self, table: StreamTable, look: TileComparison) -> dict[bytes, bytes | None]:
        """Fold the tiles of all keys from the table."""
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
        for name in plan.reads:
            if name not in rows.column_names:
                rows = rows.append_column(name, pa.nulls(len(rows), pa.float64()))
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
