"""One side of a comparison of partitions: it hashes its rows, and later returns rows by their numbers."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from forecache.kit.delta.comparison.partition import PartitionReader, RowGroup

_KEPT_SHARE = 8
"""If more than one row in so many is not matched immediately, the order differs, and few of these rows do."""


class HashedPartition:
    """A partition whose rows are hashed; rows are numbered from the first row group to the last.

    Args:
        hashed_columns: Returns the columns of a row group that are hashed.
        row_hashes: Computes the hashes, uint64 [n], of a batch of a row group.
        wanted: Columns of the rows that are returned; None: those that are hashed.

    Attributes:
        rows: Number of rows, once the partition has been read.
        sum: Sum of the hashes of all rows.
        kept: By position of the row group, the rows that were not matched immediately.
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
        self.rows = self.sum = 0
        self.kept: dict[int, KeptRows] = {}
        self._hashed_columns = hashed_columns
        self._row_hashes = row_hashes
        self._wanted = wanted
        self._starts = np.cumsum([0, *(piece.rows for piece in reader.pieces)])

    def hash_batches(self, position: int) -> Iterator[tuple[int, pa.RecordBatch, np.ndarray]]:
        """Yield the batches of a row group, each with the number of its first row and the hashes of all its rows.

        Yields nothing if there is no such row group.
        """
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
