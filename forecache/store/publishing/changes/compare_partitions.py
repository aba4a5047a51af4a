"""Comparing the published night with the one to be published, each at its Delta version, by the hashes of their rows.

A night that was written anew, as every new one is, has all its rows in the change data feed. So both partitions are
read side by side and hashed. Rows that lie at the same place in both are matched at once; of the others, those whose
hash is on one side only are encoded, and travel. The rest is neither encoded nor looked up.

Memory is bounded: by the batches that are read at a time, the hashes that wait (see `AntiJoin`) and the rows that are
kept. Only the rows that differ are all held, at most `limit` of them.
"""

import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from operator import ne

import numpy as np
import pyarrow as pa
from deltalake.exceptions import DeltaError

from forecache.errors import InputError, NotFoundError
from forecache.lake.delta.tables import open_table
from forecache.store.encoding.encoder import refuse_bad_keys
from forecache.store.encoding.entries import Encoding, encode_entries, encode_keys
from forecache.store.encoding.prediction_source import NightReader
from forecache.store.manifest import Provenance
from forecache.store.publishing.changes.anti_join import AntiJoin, UnmatchedRows
from forecache.store.publishing.changes.changes import ChangesUnavailable, RowChanges, Rows
from forecache.store.publishing.changes.hashed_partition import HashedPartition, KeptRows
from forecache.store.publishing.publication import Publication
from forecache.store.publishing.worker_pool import num_cores
from forecache.store.read.snapshot import Snapshot

ORIGIN = "partition"
KEPT_BYTES = 64 << 20
"""Rows that may differ are kept in memory up to here; beyond it those that do are read again."""

_MOST_THREADS = 3
"""Each holds a batch of both nights, and what reads it."""
_SAMPLED_PIECES = 2
_MOST_SAMPLED_PIECES = 8
"""A look-up maps up to 64 KiB of the store for every row, which counts as memory."""
_SAMPLED_ROWS = 128
_HOPELESS = 3
"""Times more changes than a small segment is for, by the estimate, that make a comparison pointless."""


def compare_partitions(publication: Publication, *, limit: int) -> RowChanges:
    """The rows in which the published night, at the published Delta version, and the one to be published differ.

    Args:
        limit: Most rows that a small segment is for.

    Raises:
        ChangesUnavailable: The published rows cannot be read any more, too many rows differ, or keys are null, too
            long or there twice, which a full publish names.
    """
    current, source = publication.current, publication.source
    assert current is not None
    try:
        table = open_table(publication.settings, source.source.table, version=current.source.delta_version)
        old = HashedPartition(
            NightReader(table, current.as_of), Encoding(publication.key, publication.fields, current.provenance)
        )
        new = HashedPartition(source.reader, publication.encoding)
        with AntiJoin(publication.staging) as anti_join:
            # The threads end before what they read from and add to is closed, also where one fails.
            with publication.store.snapshot(current.version) as snapshot, _threads() as threads:
                _read_side_by_side(old, new, threads, _Estimate(snapshot, new, limit), anti_join)
            publication.progress("Comparing with the published night", 0.6)
            with _threads() as threads:
                unmatched = anti_join.unmatched(threads, most=limit)
                _check(old, new, unmatched, limit)
                removed, added = Rows(old.encoding, keep_entries=False), Rows(new.encoding, keep_entries=True)
                for rows, side, found in zip((removed, added), (old, new), unmatched, strict=True):
                    for batch, only in side.rows_at(found.rows, threads):
                        rows.add(batch, "changed row {}", only)
    except (DeltaError, NotFoundError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        text = " ".join(str(error).split())
        raise ChangesUnavailable(f"the night {current.as_of} cannot be read as published: {text[:300]}") from None
    except InputError as error:
        raise ChangesUnavailable(error.message) from None
    return RowChanges(removed, added, ORIGIN)


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(num_cores(), _MOST_THREADS))


class _Estimate:
    """Estimates the changed rows from the first rows of the first pieces of the new night.

    Most rows differ after most trainings; then it does not pay to compare them all.
    """

    def __init__(self, snapshot: Snapshot, new: HashedPartition, limit: int) -> None:
        self._snapshot = snapshot
        self._encoding = new.encoding
        self._rows = sum(piece.rows for piece in new.reader.pieces)
        self._limit = limit
        self._pieces = self._sampled = self._differ = 0

    def add(self, batch: pa.RecordBatch, only: Provenance | None) -> None:
        """Compare some rows of the first batch of a piece, unless enough have been.

        Raises:
            ChangesUnavailable: Far more rows differ than a small segment is for.
        """
        if self._pieces >= _MOST_SAMPLED_PIECES:
            return
        some = batch.slice(0, _SAMPLED_ROWS)
        keys = encode_keys(some, self._encoding.key)
        refuse_bad_keys(some, keys, self._encoding.key, "{}", 0)
        entries = encode_entries(some, self._encoding, only)[0].to_pylist()
        self._differ += sum(map(ne, self._snapshot.get_entries(keys.to_pylist()), entries))
        self._sampled += len(some)
        self._pieces += 1
        likely = self._differ * self._rows // self._sampled
        if self._pieces >= _SAMPLED_PIECES and likely > _HOPELESS * self._limit:
            raise ChangesUnavailable(f"compaction: about {likely:,} changed keys over a base of {self._rows:,}")


def _read_side_by_side(
    old: HashedPartition, new: HashedPartition, threads: ThreadPoolExecutor, estimate: _Estimate, anti_join: AntiJoin
) -> None:
    """Read and hash both nights, and hand on what does not lie at the same place in both."""
    sides, lock, kept_bytes = (old, new), threading.Lock(), 0
    nothing = (0, None, np.empty(0, np.uint64))

    def compare(piece: int) -> None:
        nonlocal kept_bytes
        kept, counts, sums = (KeptRows(), KeptRows()), [0, 0], [0, 0]
        for number, pair in enumerate(zip_longest(*(side.hashed(piece) for side in sides), fillvalue=nothing)):
            if number == 0 and pair[1][1] is not None:
                estimate.add(pair[1][1], new.provenance(piece))
            for place, ((start, batch, hashes), (_, _, other)) in enumerate(zip(pair, pair[::-1], strict=True)):
                if batch is None:
                    continue
                rows = _unequal(hashes, other)
                anti_join.add(place, hashes[rows], rows + start)
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


def _check(
    old: HashedPartition, new: HashedPartition, unmatched: tuple[UnmatchedRows, UnmatchedRows], limit: int
) -> None:
    """Refuse where the rows found do not account for the difference of the two nights, or are too many."""
    removed, added = unmatched
    most = max(len(removed.rows), len(added.rows))
    if most > limit:
        raise ChangesUnavailable(f"compaction: more than {limit:,} changed keys over a base of {old.rows:,}")
    # A row that is there twice on one side can hide: its hash is not found once. Counts and sums tell.
    same_rows = old.rows - len(removed.rows) == new.rows - len(added.rows)
    if not same_rows or (old.sum - removed.sum - new.sum + added.sum) % (1 << 64):
        raise ChangesUnavailable("the two nights differ by more than single rows: some are there more than once")
