"""Comparison of two keyed states of a table: partitions by the hashes of their rows, or one by its change data feed.

Two partitions are read side by side and hashed. Rows at the same position with equal hashes are matched immediately;
the others go through an anti-join by hash. Memory is bounded by the batches that are read at a time, the hashes in the
anti-join (see `AntiJoin`) and the rows that are kept. Only the rows that differ are all held.

Either way finds rows that were removed and rows that were added; `match_keys` says by key what they were and are.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from forecache.kit.delta.comparison.hash_buckets import AntiJoin, UnmatchedRows
from forecache.kit.delta.comparison.partition import PartitionReader, RowGroup, to_plain_types

KEPT_BYTES = 64 << 20
"""Rows that may differ are kept in memory up to this size; beyond it, those that do differ are read again."""
MOST_THREADS = 3
"""Each thread holds a batch of both sides and their readers."""
ALL = 1 << 62
NOWHERE = -1
_NOTHING = (0, None, np.empty(0, np.uint64))
_KEPT_SHARE = 8
"""If more than one row in so many is not matched immediately, the order differs, and few of these rows do."""
_KIND, _VERSION = "_change_type", "_commit_version"


class HashedPartition:
    """A partition whose rows are hashed; rows are numbered from the first row group to the last.

    `hashed_columns` returns the columns of a row group that are hashed, `row_hashes` their hashes, uint64 [n], of a
    batch of it. `wanted` are the columns of the rows that are returned; None: those that are hashed.
    """

    def __init__(
        self,
        reader: PartitionReader,
        hashed_columns: Callable[[RowGroup], list[str]],
        row_hashes: Callable[[pa.RecordBatch, RowGroup], np.ndarray],
        *,
        wanted: list[str] | None = None,
    ) -> None:
        self.reader = reader
        self.rows = self.sum = 0  # once the partition has been read: rows, and the sum of their hashes
        self.kept: dict[int, KeptRows] = {}  # by row group, the rows that were not matched immediately
        self._hashed_columns = hashed_columns
        self._row_hashes = row_hashes
        self._wanted = wanted
        self._starts = np.cumsum([0, *(piece.rows for piece in reader.pieces)])

    def hash_batches(self, position: int) -> Iterator[tuple[int, pa.RecordBatch, np.ndarray]]:
        """Yield the batches of a row group, if it exists, with the number of the first row and the hashes of all."""
        if position >= len(self.reader.pieces):
            return
        start, piece = int(self._starts[position]), self.reader.pieces[position]
        for batch in self.reader.batches(piece, self._hashed_columns(piece)):
            yield start, batch if self._wanted is None else batch.select(self._wanted), self._row_hashes(batch, piece)
            start += len(batch)

    def read_rows_at(
        self, numbers: np.ndarray, threads: ThreadPoolExecutor
    ) -> Iterator[tuple[pa.RecordBatch, RowGroup]]:
        """Yield the rows with these ascending numbers, one batch for each row group."""
        ends = np.searchsorted(numbers, self._starts)

        def read_piece(position: int) -> tuple[pa.RecordBatch, RowGroup]:
            rows = self._read_piece_rows(position, numbers[ends[position] : ends[position + 1]])
            return rows, self.reader.pieces[position]

        return threads.map(read_piece, np.flatnonzero(np.diff(ends)).tolist())

    def _read_piece_rows(self, position: int, numbers: np.ndarray) -> pa.RecordBatch:
        if position in self.kept:
            return self.kept[position].take(numbers)
        start, found, piece = int(self._starts[position]), [], self.reader.pieces[position]
        for batch in self.reader.batches(piece, self._wanted or self._hashed_columns(piece)):
            first, last = np.searchsorted(numbers, (start, start + len(batch)))
            found.append(batch.take(pa.array(numbers[first:last] - start)))
            start += len(batch)
        return pa.Table.from_batches(found).combine_chunks().to_batches()[0]


class KeptRows:
    """The rows of a row group that were not matched immediately, as long as they are few."""

    def __init__(self) -> None:
        self.complete = True
        self._bytes = 0
        self._numbers: list[np.ndarray] = []
        self._batches: list[pa.RecordBatch] = []

    def add(self, batch: pa.RecordBatch, rows: np.ndarray, start: int, *, room: bool) -> int:
        """Keep some rows of a batch, whose first row has the number `start`; returns the bytes added."""
        before = self._bytes
        self.complete = self.complete and room and _KEPT_SHARE * len(rows) <= len(batch)
        if not self.complete:
            self._numbers, self._batches, self._bytes = [], [], 0
        elif len(rows):
            self._numbers.append(rows + start)
            self._batches.append(batch.take(pa.array(rows)))
            self._bytes += self._batches[-1].nbytes
        return self._bytes - before

    def take(self, numbers: np.ndarray) -> pa.RecordBatch:
        places = np.searchsorted(np.concatenate(self._numbers), numbers)
        return pa.Table.from_batches(self._batches).take(pa.array(places)).combine_chunks().to_batches()[0]


def find_differing_rows(
    old: HashedPartition,
    new: HashedPartition,
    threads: ThreadPoolExecutor,
    folder: Path,
    *,
    most: int = ALL,
    look: Callable[[pa.RecordBatch, RowGroup], None] = lambda _, __: None,
) -> tuple[UnmatchedRows, UnmatchedRows] | None:
    """Find the rows of either side that the other one lacks; it stops early once one side has more than `most`.

    `folder` is for hashes that do not fit memory. `look` is called with the first batch of every row group of the new
    side.

    Returns:
        (removed, added); None if the rows found do not explain the difference, because some rows occur more than once.
    """
    with AntiJoin(folder) as anti_join:
        _read_side_by_side(old, new, threads, anti_join, look)
        removed, added = anti_join.find_unmatched(threads, most=most)
    if max(len(removed.rows), len(added.rows)) > most:
        return removed, added
    # A row that occurs twice on one side is not found, as its hash is not unique. Counts and sums of hashes show that.
    same_rows = old.rows - len(removed.rows) == new.rows - len(added.rows)
    if not same_rows or (old.sum - removed.sum - new.sum + added.sum) % (1 << 64):
        return None
    return removed, added


def _read_side_by_side(
    old: HashedPartition,
    new: HashedPartition,
    threads: ThreadPoolExecutor,
    anti_join: AntiJoin,
    look: Callable[[pa.RecordBatch, RowGroup], None],
) -> None:
    """Read and hash both sides, and add the rows that are not equal at the same position to the anti-join."""
    sides, lock, kept_bytes = (old, new), threading.Lock(), 0

    def compare(position: int) -> None:
        nonlocal kept_bytes
        kept, counts, sums = (KeptRows(), KeptRows()), [0, 0], [0, 0]
        for number, pair in enumerate(
            zip_longest(*(side.hash_batches(position) for side in sides), fillvalue=_NOTHING)
        ):
            if number == 0 and pair[1][1] is not None:
                look(pair[1][1], new.reader.pieces[position])
            for side, ((start, batch, hashes), (_, _, other)) in enumerate(zip(pair, pair[::-1], strict=True)):
                if batch is None:
                    continue
                rows = _unequal_positions(hashes, other)
                anti_join.add_rows(side, hashes[rows], rows + start)
                more = kept[side].add(batch, rows, start, room=kept_bytes < KEPT_BYTES)
                with lock:
                    kept_bytes += more
                counts[side] += len(hashes)
                sums[side] += int(hashes.sum())
        with lock:
            for partition, rows_kept, count, total in zip(sides, kept, counts, sums, strict=True):
                partition.rows += count
                partition.sum += total
                if rows_kept.complete:
                    partition.kept[position] = rows_kept

    for _ in threads.map(compare, range(max(len(side.reader.pieces) for side in sides))):
        pass


def _unequal_positions(hashes: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Positions at which the other side has another hash, or none."""
    unequal = np.ones(len(hashes), bool)
    common = min(len(hashes), len(other))
    np.not_equal(hashes[:common], other[:common], out=unequal[:common])
    return np.flatnonzero(unequal)


@dataclass(frozen=True)
class FeedRows:
    """The rows of a partition's change data feed; an updated row is among both sides.

    `moments` are the order of the changes, int64: of each row of `removed`, then of each of `added`; None: all were
    removed before any was added, as in a single commit.
    """

    removed: pa.Table
    added: pa.Table
    moments: np.ndarray | None


def read_feed(
    table: DeltaTable,
    versions: tuple[int, int],
    columns: Sequence[str],
    partition: tuple[str, str],
    *,
    most_rows: int = ALL,
    most_bytes: int = ALL,
) -> FeedRows | None:
    """Read the rows that commits removed from a partition and added to it; None, not read to its end, if too many.

    `versions` are those of the first and the last commit (first after last: no rows), `partition` is (column, ISO
    value). DeltaError, OSError or pa.ArrowException if the feed was vacuumed, never written, or has another schema.
    """
    if versions[0] > versions[1]:
        nothing = to_plain_types(pa.schema(table.schema()).empty_table()).select(list(columns))
        return FeedRows(nothing, nothing, None)
    column, value = partition
    feed = pa.RecordBatchReader.from_stream(
        table.load_cdf(
            starting_version=versions[0],
            ending_version=versions[1],
            columns=[*columns, column, _KIND, _VERSION],
            predicate=f"{column} = '{value}'",
        )
    )
    batches: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in feed:
        batches.append(to_plain_types(batch))
        rows, size = rows + len(batch), size + batch.nbytes
        if rows > most_rows or size > most_bytes:
            return None
    found = pa.Table.from_batches(batches, to_plain_types(feed.schema.empty_table()).schema)
    is_removed = pc.or_(pc.equal(found[_KIND], "delete"), pc.equal(found[_KIND], "update_preimage"))
    removed, added = found.filter(is_removed), found.filter(pc.invert(is_removed))
    if versions[0] == versions[1]:
        return FeedRows(removed, added, None)
    # In one commit all rows are removed before any is added.
    moments = [2 * some[_VERSION].to_numpy().astype(np.int64) + kind for kind, some in enumerate((removed, added))]
    return FeedRows(removed, added, np.concatenate(moments))


@dataclass(frozen=True)
class KeyStates:
    """The states of each key of some changed rows, before and after all changes."""

    keys: pa.Array  # distinct [n]
    before: np.ndarray  # first state among the removed rows, int64 [n]; `NOWHERE`: none
    after: np.ndarray  # last state among the added rows, int64 [n]; `NOWHERE`: none


def match_keys(keys: pa.ChunkedArray, num_removed: int, moments: np.ndarray | None = None) -> KeyStates:
    """Match removed and added rows, whose `keys` follow each other, by key; for `moments` see `FeedRows`.

    The first change of a key tells its state before all of them, if it is a removal; the last one, if it is an
    addition, the state after.
    """
    encoded = keys.combine_chunks().dictionary_encode()
    order = np.arange(len(encoded)) if moments is None else np.argsort(moments, kind="stable")
    codes = encoded.indices.to_numpy()[order]
    first, last = np.empty((2, len(encoded.dictionary)), np.int64)
    # If a code occurs more than once, numpy keeps the value that it assigned last.
    first[codes[::-1]], last[codes] = order[::-1], order
    return KeyStates(
        encoded.dictionary,
        np.where(first < num_removed, first, NOWHERE),
        np.where(last >= num_removed, last - num_removed, NOWHERE),
    )
