"""Two states of a partition, compared by the hashes of their rows.

Both are read side by side and hashed. Rows that lie at the same place in both are matched at once; of the others,
those whose hash is on one side only differ.

Memory is bounded: by the batches that are read at a time, the hashes that wait (see `AntiJoin`) and the rows that are
kept. Only the rows that differ are all held.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pyarrow as pa

from forecache.lake.delta.comparison.anti_join import AntiJoin, UnmatchedRows
from forecache.lake.delta.comparison.hashed_partition import HashedPartition, KeptRows
from forecache.lake.delta.comparison.partition import Piece

KEPT_BYTES = 64 << 20
"""Rows that may differ are kept in memory up to here; beyond it those that do are read again."""

MOST_THREADS = 3
"""Each holds a batch of both sides, and what reads it."""

ALL = 1 << 62
_NOTHING = (0, None, np.empty(0, np.uint64))


def differing_rows(
    old: HashedPartition,
    new: HashedPartition,
    threads: ThreadPoolExecutor,
    folder: Path,
    *,
    most: int = ALL,
    look: Callable[[pa.RecordBatch, Piece], None] = lambda _, __: None,
) -> tuple[UnmatchedRows, UnmatchedRows] | None:
    """The rows of either side that the other one lacks; all of them, or more than `most` of a side.

    Args:
        folder: For hashes that do not fit memory.
        look: Gets the first batch of every piece of the new side.

    Returns:
        None where the rows found do not account for the difference: some are there more than once.
    """
    with AntiJoin(folder) as anti_join:
        _read_side_by_side(old, new, threads, anti_join, look)
        removed, added = anti_join.unmatched(threads, most=most)
    if max(len(removed.rows), len(added.rows)) > most:
        return removed, added
    # A row that is there twice on one side can hide: its hash is not found once. Counts and sums tell.
    same_rows = old.rows - len(removed.rows) == new.rows - len(added.rows)
    if not same_rows or (old.sum - removed.sum - new.sum + added.sum) % (1 << 64):
        return None
    return removed, added


def _read_side_by_side(
    old: HashedPartition,
    new: HashedPartition,
    threads: ThreadPoolExecutor,
    anti_join: AntiJoin,
    look: Callable[[pa.RecordBatch, Piece], None],
) -> None:
    """Read and hash both sides, and hand on what does not lie at the same place in both."""
    sides, lock, kept_bytes = (old, new), threading.Lock(), 0

    def compare(position: int) -> None:
        nonlocal kept_bytes
        kept, counts, sums = (KeptRows(), KeptRows()), [0, 0], [0, 0]
        for number, pair in enumerate(zip_longest(*(side.hashed(position) for side in sides), fillvalue=_NOTHING)):
            if number == 0 and pair[1][1] is not None:
                look(pair[1][1], new.reader.pieces[position])
            for side, ((start, batch, hashes), (_, _, other)) in enumerate(zip(pair, pair[::-1], strict=True)):
                if batch is None:
                    continue
                rows = _unequal(hashes, other)
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


def _unequal(hashes: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Where other hashes, or none, lie at the same place."""
    unequal = np.ones(len(hashes), bool)
    common = min(len(hashes), len(other))
    np.not_equal(hashes[:common], other[:common], out=unequal[:common])
    return np.flatnonzero(unequal)


def first_and_last(keys: pa.ChunkedArray, moments: np.ndarray | None) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """Each different key of some rows, and the positions of its first and of its last row.

    Args:
        moments: When each row was, integers [n]; None: the rows are in their order.
    """
    encoded = keys.combine_chunks().dictionary_encode()
    order = np.arange(len(encoded)) if moments is None else np.argsort(moments, kind="stable")
    codes = encoded.indices.to_numpy()[order]
    first, last = np.empty((2, len(encoded.dictionary)), np.int64)
    # Where a code is there more than once, numpy keeps what it assigned last.
    first[codes[::-1]], last[codes] = order[::-1], order
    return encoded.dictionary, first, last
