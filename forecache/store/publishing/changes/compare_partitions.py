"""Comparing the published night with the one to be published, each at its Delta version, by the hashes of their rows.

A night that was written anew, as every new one is, has all its rows in the change data feed. So both partitions are
read side by side and hashed. Rows that lie at the same place in both are settled at once; of the others, those whose
hash is on one side only are encoded, and travel. The rest is neither encoded nor looked up.

Memory is bounded: by the batches that are read at a time, the hashes that wait (see `unmatched`) and the rows that are
kept. Only the rows that differ, which are no more than a small segment is for, are all held.
"""

import errno
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from operator import ne

import numpy as np
import pyarrow as pa
from deltalake.exceptions import DeltaError

from forecache.errors import InputError, NotFoundError
from forecache.lake.delta.tables import open_table
from forecache.store.encoding.entries import Encoding, encode_entries, encode_keys
from forecache.store.encoding.entry_hashes import entry_hashes
from forecache.store.encoding.jobs import refuse_bad_keys
from forecache.store.encoding.pool import num_cores
from forecache.store.encoding.prediction_source import NightReader
from forecache.store.manifest import Provenance
from forecache.store.publishing.changes.changes import Differences, DifferencesUnavailable, Rows
from forecache.store.publishing.changes.unmatched_rows import Lone, Unmatched
from forecache.store.publishing.publication import Publication
from forecache.store.read.snapshot import Snapshot

ORIGIN = "partition"
KEPT_BYTES = 64 << 20
"""Rows that may differ are kept in memory up to here; beyond it those that do are read again."""

_KEPT_SHARE = 8
"""Where more than one row in so many is not settled at once, the nights have another order, and few of these differ."""
_MOST_THREADS = 3
"""Each holds a batch of both nights, and what reads it."""
_LOOKED_PIECES = 2
_MOST_LOOKED_PIECES = 8
"""A look maps up to 64 KiB of the store for every row, which counts as memory."""
_LOOKED_ROWS = 128
_HOPELESS = 3
"""Times more changes than a small segment is for, by a rough look, that make a comparison pointless."""


def compare_nights(publication: Publication, *, limit: int) -> Differences:
    """The rows in which the published night, at the published Delta version, and the one to be published differ.

    Args:
        limit: Most rows that a small segment is for.

    Raises:
        DifferencesUnavailable: The published rows cannot be read any more, too many rows differ, or keys are null, too
            long or there twice, which a full publish names.
    """
    current, source = publication.current, publication.source
    assert current is not None
    try:
        table = open_table(publication.settings, source.source.table, version=current.source.delta_version)
        old = _Side(
            NightReader(table, current.as_of), Encoding(publication.key, publication.fields, current.provenance)
        )
        new = _Side(source.reader, publication.encoding)
        with Unmatched(publication.staging) as unmatched:
            # The threads end before what they read from and add to is closed, also where one fails.
            with publication.store.snapshot(current.version) as snapshot, _threads() as threads:
                _read_side_by_side(old, new, threads, _Look(snapshot, new, limit), unmatched)
            publication.progress("Comparing with the published night", 0.6)
            with _threads() as threads:
                lone = unmatched.lone(threads, most=limit)
                _check(old, new, lone, limit)
                gone, come = Rows(old.encoding, keep_entries=False), Rows(new.encoding, keep_entries=True)
                for rows, side, found in zip((gone, come), (old, new), lone, strict=True):
                    for batch, only in side.rows_at(found.rows, threads):
                        rows.add(batch, "changed row {}", only)
    except (DeltaError, NotFoundError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        text = " ".join(str(error).split())
        raise DifferencesUnavailable(f"the night {current.as_of} cannot be read as published: {text[:300]}") from None
    except InputError as error:
        raise DifferencesUnavailable(error.message) from None
    return Differences(come, gone, ORIGIN)


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(num_cores(), _MOST_THREADS))


class _Look:
    """A look at the first rows of the first pieces of the new night: whether it is much like what is published.

    Most rows differ after most trainings; then it does not pay to compare them all.
    """

    def __init__(self, snapshot: Snapshot, new: "_Side", limit: int) -> None:
        self._snapshot = snapshot
        self._encoding = new.encoding
        self._rows = sum(piece.rows for piece in new.reader.pieces)
        self._limit = limit
        self._pieces = self._looked = self._differ = 0

    def at(self, batch: pa.RecordBatch, only: Provenance | None) -> None:
        """Look at the first batch of a piece, unless enough have been looked at.

        Raises:
            DifferencesUnavailable: Far more rows differ than a small segment is for.
        """
        if self._pieces >= _MOST_LOOKED_PIECES:
            return
        some = batch.slice(0, _LOOKED_ROWS)
        keys = encode_keys(some, self._encoding.key)
        refuse_bad_keys(some, keys, self._encoding.key, "{}", 0)
        entries = encode_entries(some, self._encoding, only)[0].to_pylist()
        self._differ += sum(map(ne, self._snapshot.get_entries(keys.to_pylist()), entries))
        self._looked += len(some)
        self._pieces += 1
        likely = self._differ * self._rows // self._looked
        if self._pieces >= _LOOKED_PIECES and likely > _HOPELESS * self._limit:
            raise DifferencesUnavailable(f"compaction: about {likely:,} changed keys over a base of {self._rows:,}")


class _Side:
    """One of the two nights. Its rows are numbered from the first piece to the last.

    Attributes:
        rows: Rows of the night, once it has been read.
        sum: Of the hashes of all rows.
        kept: For pieces by their positions, the rows that were not settled at once.
    """

    def __init__(self, reader: NightReader, encoding: Encoding) -> None:
        self.reader = reader
        self.encoding = encoding
        self.rows = self.sum = 0
        self.kept: dict[int, _Kept] = {}
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


class _Kept:
    """The rows of a piece that were not settled at once, as long as they are few."""

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


def _read_side_by_side(old: _Side, new: _Side, threads: ThreadPoolExecutor, look: _Look, unmatched: Unmatched) -> None:
    """Read and hash both nights, and hand on what does not lie at the same place in both."""
    sides, lock, kept_bytes = (old, new), threading.Lock(), 0
    nothing = (0, None, np.empty(0, np.uint64))

    def compare(piece: int) -> None:
        nonlocal kept_bytes
        kept, counts, sums = (_Kept(), _Kept()), [0, 0], [0, 0]
        for number, pair in enumerate(zip_longest(*(side.hashed(piece) for side in sides), fillvalue=nothing)):
            if number == 0 and pair[1][1] is not None:
                look.at(pair[1][1], new.provenance(piece))
            for place, ((start, batch, hashes), (_, _, other)) in enumerate(zip(pair, pair[::-1], strict=True)):
                if batch is None:
                    continue
                rows = _unequal(hashes, other)
                unmatched.add(place, hashes[rows], rows + start)
                more = kept[place].add(batch, rows, start, room=kept_bytes < KEPT_BYTES)
                with lock:
                    kept_bytes += more
                counts[place] += len(hashes)
                sums[place] += int(hashes.sum())
        with lock:
            for side, rows_kept, count, total in zip(sides, kept, counts, sums, strict=True):
                side.rows += count
                side.sum += total
                if rows_kept.complete:
                    side.kept[piece] = rows_kept

    for _ in threads.map(compare, range(max(len(side.reader.pieces) for side in sides))):
        pass


def _unequal(hashes: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Where other hashes, or none, lie at the same place."""
    unequal = np.ones(len(hashes), bool)
    common = min(len(hashes), len(other))
    np.not_equal(hashes[:common], other[:common], out=unequal[:common])
    return np.flatnonzero(unequal)


def _check(old: _Side, new: _Side, lone: tuple[Lone, Lone], limit: int) -> None:
    """Refuse where the rows found do not account for the difference of the two nights, or are too many."""
    gone, come = lone
    most = max(len(gone.rows), len(come.rows))
    if most > limit:
        raise DifferencesUnavailable(f"compaction: more than {limit:,} changed keys over a base of {old.rows:,}")
    # A row that is there twice on one side can hide: its hash is not found once. Counts and sums tell.
    same_rows = old.rows - len(gone.rows) == new.rows - len(come.rows)
    if not same_rows or (old.sum - gone.sum - new.sum + come.sum) % (1 << 64):
        raise DifferencesUnavailable("the two nights differ by more than single rows: some are there more than once")
