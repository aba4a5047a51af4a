"""Spark tasks that make tiles from raw files, and nights from tile files; they read and write Parquet themselves.

No row goes through the JVM. Runs inside Spark's Python workers: imports neither settings nor the declaration's modules.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from forecache.kit.delta.errors import open_data_file
from forecache.kit.delta.files import DataFile, Place, fit_columns, new_path, read_rows, retry_write, write_file
from forecache.kit.windows.states import MeasureState, as_tiles, combine
from forecache.plugins.window_features.key_hashes import key_hashes
from forecache.plugins.window_features.tile_merge import TileMerger

DAY = "day"
BUCKET = "key_bucket"
"""Column of a tile: the bucket of its key, 0 to 65,535. Tile files are sorted by it, so that a task reads some keys."""
_BUCKETS = 1 << 16
_GROUP_ROWS = 1 << 16
_READ_ROWS = 1 << 18
_HELD_ROWS = 1 << 22


@dataclass(frozen=True)
class TileTask:
    """Makes the tiles of a day, of the keys in some buckets, from the raw files of that day."""

    raw: Place
    tiles: Place
    day: date
    paths: tuple[str, ...]  # of the raw files
    read: pa.Schema  # columns to read; null if a file lacks one
    stored: pa.Schema  # columns of a tile file
    key: tuple[str, ...]
    states: tuple[MeasureState, ...]
    time: str
    folder: str
    buckets: tuple[int, int] = (0, _BUCKETS)  # first, and end

    def files(self) -> Iterator[DataFile]:
        """Write the tiles as one file; none if there are no rows. ValueError: A value is too large for a sum."""
        tile = self._tile()
        if not tile.num_rows:
            return
        buckets = bucket_of(tile, self.key)
        order = pa.array(np.argsort(buckets.astype(np.uint16), kind="stable"))  # by digits, of two bytes
        rows = tile.append_column(BUCKET, pa.array(buckets)).take(order).select(self.stored.names).cast(self.stored)
        yield _write_partition_file(self.tiles, self.folder, {DAY: self.day}, rows)

    def _tile(self) -> pa.Table:
        """All tiles of the day; memory does not grow with the number of rows of a key."""
        tile = combined = as_tiles(self.read.empty_table(), self.key, self.states, self.time)
        for rows in self._rows():
            tile = pa.concat_tables([tile, as_tiles(rows, self.key, self.states, self.time)])
            if tile.num_rows > max(_HELD_ROWS, 2 * combined.num_rows):
                tile = combined = combine(tile, self.key, self.states)
        return combine(tile, self.key, self.states) if tile.num_rows else tile

    def _rows(self) -> Iterator[pa.Table]:
        filesystem, table = self.raw.open(), self.raw.uri.rpartition("/")[2]
        for path in self.paths:
            for batch in read_rows(filesystem, table, path, self.read, batch_rows=_READ_ROWS):
                rows = _drop_null_keys(pa.Table.from_batches([batch]), self.key)
                if self.buckets != (0, _BUCKETS):
                    rows = rows.filter(pa.array(_is_within(bucket_of(rows, self.key), self.buckets)))
                yield rows


@dataclass(frozen=True)
class NightTask:
    """Makes the nights of the keys in some buckets, from all tiles in the nights' windows."""

    tiles: Place
    days: tuple[tuple[date, tuple[str, ...]], ...]  # and their tile files
    read: pa.Schema  # key columns and states
    buckets: tuple[int, int]  # first, and end
    merge: TileMerger
    stored: pa.Schema  # columns of a feature file

    def rows(self) -> Iterator[pa.RecordBatch]:
        """Key columns, `as_of` and the features (double)."""
        return self.merge(self._tiles().to_batches())

    def files(self, features: Place, folder: str) -> Iterator[DataFile]:
        """Write a feature file of each night that has a row."""
        tiles = self._tiles()
        # Most features of a group differ, and a dictionary of them takes most of the writing time.
        repeated = [field.name for field in self.stored if not pa.types.is_floating(field.type)]
        for night, rows in self.merge.each_night(tiles) if tiles.num_rows else ():
            features_of_night = rows.select(self.stored.names).cast(self.stored)
            yield _write_partition_file(features, folder, {"as_of": night}, features_of_night, use_dictionary=repeated)

    def _tiles(self) -> pa.Table:
        """All tiles of the keys, or of the requested ones if only some are."""
        asked, table = self.merge.asked, self.tiles.uri.rpartition("/")[2]
        filesystem, parts = self.tiles.open(), [self.read.append(pa.field(DAY, pa.date32())).empty_table()]
        for day, paths in self.days:
            for path in paths:
                with open_data_file(filesystem, path, table) as source:
                    parquet = pq.ParquetFile(source)
                    groups = [i for i in range(parquet.num_row_groups) if self._may_hold(parquet.metadata.row_group(i))]
                    known = [name for name in self.read.names if name in parquet.schema_arrow.names]
                    rows = parquet.read_row_groups(groups, columns=[*known, BUCKET], use_threads=False)
                buckets = rows[BUCKET].to_numpy()
                wanted = _is_within(buckets, self.buckets)
                rows = fit_columns(rows if wanted.all() else rows.filter(pa.array(wanted)), self.read)
                if asked is not None and rows.num_rows:
                    rows = rows.filter(pa.array(asked.is_ever_requested(key_hashes(rows, self.merge.key))))
                parts.append(rows.append_column(DAY, pa.repeat(pa.scalar(day, pa.date32()), rows.num_rows)))
        return pa.concat_tables(parts)

    def _may_hold(self, group: Any) -> bool:
        found = (group.column(i) for i in range(group.num_columns))
        bounds = next((each.statistics for each in found if each.path_in_schema == BUCKET), None)
        if bounds is None or not bounds.has_min_max:
            return True
        return bool(bounds.min < self.buckets[1] and bounds.max >= self.buckets[0])


def bucket_of(rows: pa.Table, key: Sequence[str]) -> Any:
    """The bucket of each row's key; int32 [n]."""
    return (key_hashes(rows, key) >> np.uint64(48)).astype(np.int32)


def _is_within(buckets: Any, wanted: tuple[int, int]) -> Any:
    return (buckets >= wanted[0]) & (buckets < wanted[1])


def split_buckets(num_parts: int) -> list[tuple[int, int]]:
    """Split all buckets into ranges (first, end)."""
    ends = [_BUCKETS * part // num_parts for part in range(num_parts + 1)]
    return list(zip(ends, ends[1:], strict=False))


def _write_partition_file(
    place: Place, folder: str, partition: dict[str, Any], rows: pa.Table, **options: Any
) -> DataFile:
    groups = [rows.slice(first, _GROUP_ROWS) for first in range(0, rows.num_rows, _GROUP_ROWS)]
    filesystem = place.open()
    return retry_write(
        lambda: write_file(filesystem, new_path(folder, partition), rows.schema, groups, **options),
        is_remote="://" in place.uri,
    )


def _drop_null_keys(rows: pa.Table, key: Sequence[str]) -> pa.Table:
    known = np.logical_and.reduce([np.asarray(rows[name].combine_chunks().is_valid()) for name in key])
    return rows if known.all() else rows.filter(pa.array(known))
