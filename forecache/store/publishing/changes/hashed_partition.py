"""One of two nights that are compared: its rows by their hashes, and afterwards those that differ by their numbers."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from forecache.store.encoding.entries import Encoding
from forecache.store.encoding.entry_hashes import entry_hashes
from forecache.store.encoding.prediction_source import NightReader
from forecache.store.manifest import Provenance

_KEPT_SHARE = 8
"""Where more than one row in so many is not matched at once, the nights have another order, and few of these differ."""


class HashedPartition:
    """A night whose rows are hashed, and then some of them taken by their numbers, from the first piece to the last.

    Attributes:
        rows: Rows of the night, once it has been read.
        sum: Of the hashes of all rows.
        kept: For pieces by their positions, the rows that were not matched at once.
    """

    def __init__(self, reader: NightReader, encoding: Encoding) -> None:
        self.reader = reader
        self.encoding = encoding
        self.rows = self.sum = 0
        self.kept: dict[int, KeptRows] = {}
        self._starts = np.cumsum([0, *(piece.rows for piece in reader.pieces)])

    def hashed(self, piece: int) -> Iterator[tuple[int, pa.RecordBatch, np.ndarray]]:
        """The batches of a piece, each with the number of its first row and the hashes of all its rows.

        None where there is no such piece.
        """
        if piece >= len(self.reader.pieces):
            return
        start, only = int(self._starts[piece]), self.provenance(piece)
        for batch in self._batches(piece):
            yield start, batch, entry_hashes(batch, self.encoding, only)
            start += len(batch)

    def provenance(self, piece: int) -> Provenance | None:
        """That of all rows of a piece where it is known without reading them."""
        return self.reader.provenance(self.reader.pieces[piece])

    def _batches(self, piece: int) -> Iterator[pa.RecordBatch]:
        columns = self.encoding.columns(provenance=self.provenance(piece) is None)
        return self.reader.batches(self.reader.pieces[piece], columns)

    def rows_at(
        self, numbers: np.ndarray, threads: ThreadPoolExecutor
    ) -> Iterator[tuple[pa.RecordBatch, Provenance | None]]:
        """The rows with these ascending numbers, a batch a piece, and their provenance where it is known without."""
        ends = np.searchsorted(numbers, self._starts)

        def of_piece(piece: int) -> tuple[pa.RecordBatch, Provenance | None]:
            return self._rows_of(piece, numbers[ends[piece] : ends[piece + 1]])

        return threads.map(of_piece, np.flatnonzero(np.diff(ends)).tolist())

    def _rows_of(self, piece: int, numbers: np.ndarray) -> tuple[pa.RecordBatch, Provenance | None]:
        only = self.provenance(piece)
        if piece in self.kept:
            return self.kept[piece].take(numbers), only
        start, found = int(self._starts[piece]), []
        for batch in self._batches(piece):
            first, last = np.searchsorted(numbers, (start, start + len(batch)))
            found.append(batch.take(pa.array(numbers[first:last] - start)))
            start += len(batch)
        return pa.Table.from_batches(found).combine_chunks().to_batches()[0], only


class KeptRows:
    """The rows of a piece that were not matched at once, as long as they are few."""

    def __init__(self) -> None:
        self.complete = True
        self._bytes = 0
        self._numbers: list[np.ndarray] = []
        self._batches: list[pa.RecordBatch] = []

    def add(self, batch: pa.RecordBatch, rows: np.ndarray, start: int, *, room: bool) -> int:
        """Keep some rows of a batch, whose first row has the number `start`; returns how many bytes more are kept."""
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
