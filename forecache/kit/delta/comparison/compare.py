"""Comparison of two states of a partition by the hashes of their rows.

Both are read side by side and hashed. Rows at the same position with equal hashes are matched immediately; the others
go through an anti-join by hash.

Memory is bounded by the batches that are read at a time, the hashes in the anti-join (see `AntiJoin`) and the rows that
are kept. Only the rows that differ are all held.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pyarrow as pa

from forecache.kit.delta.comparison.anti_join import AntiJoin, UnmatchedRows
from forecache.kit.delta.comparison.hashed_partition import HashedPartition, KeptRows
from forecache.kit.delta.comparison.partition import RowGroup

KEPT_BYTES = 64 << 20
"""Rows that may differ are kept in memory up to this size; beyond it, those that do differ are read again."""

MOST_THREADS = 3
"""Each thread holds a batch of both sides and their readers."""

ALL = 1 << 62
_NOTHING = (0, None, np.empty(0, np.uint64))


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

    Args:
        folder: For hashes that do not fit memory.
        look: Called with the first batch of every row group of the new side.

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


def first_and_last_positions(
    keys: pa.ChunkedArray, moments: np.ndarray | None
) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """Each distinct key of some rows, and the positions of its first and of its last row.

    Args:
        moments: Time of each row, integers [n]; None: the rows are in order of time.
    """
    encoded = keys.combine_chunks().dictionary_encode()
    order = np.arange(len(encoded)) if moments is None else np.argsort(moments, kind="stable")
    codes = encoded.indices.to_numpy()[order]
    first, last = np.empty((2, len(encoded.dictionary)), np.int64)
    # If a code occurs more than once, numpy keeps the value that it assigned last.
    first[codes[::-1]], last[codes] = order[::-1], order
    return encoded.dictionary, first, last
