"""A two-way anti-join by row hashes: the rows of each side that have no equal row on the other side.

Its memory does not grow with the rows: each bucket of hashes is compared separately.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forecache.kit.delta.comparison.hash_buckets import BUCKETS, HashBuckets

WAITING_BYTES = 16 << 20
"""Hashes and row numbers are held in memory up to this size; beyond it they are written to a file."""

_SIDES = 2
_AT_ONCE = BUCKETS // 16


@dataclass(frozen=True)
class UnmatchedRows:
    """The rows of one side whose hash no other row of either side has.

    Attributes:
        rows: Row numbers, int64 [n], ascending.
        sum: Sum of their hashes.
    """

    rows: np.ndarray
    sum: int


class AntiJoin(HashBuckets):
    """Collects rows (hash, number, side) from many threads, and then finds those that are unmatched.

    Args:
        folder: For the temporary file, which is removed when this process ends at the latest.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, numbers=2, waiting_bytes=WAITING_BYTES)

    def add_rows(self, side: int, hashes: np.ndarray, rows: np.ndarray) -> None:
        """Add rows of side 0 or 1.

        Args:
            hashes: uint64 [n].
            rows: Row numbers on their side, integers [n].
        """
        self.add(np.column_stack([hashes, (rows * _SIDES + side).astype(np.uint64)]))

    def find_unmatched(self, threads: ThreadPoolExecutor, *, most: int) -> tuple[UnmatchedRows, UnmatchedRows]:
        """Find the unmatched rows of both sides; it stops early once one side has more than `most`."""
        found: list[np.ndarray] = []
        counts = np.zeros(_SIDES, np.int64)
        for first in range(0, BUCKETS, _AT_ONCE):
            for pairs in threads.map(
                lambda bucket: _pairs_with_unique_hash(self.bucket(bucket)), range(first, first + _AT_ONCE)
            ):
                found.append(pairs)
                counts += np.bincount((pairs[:, 1] % _SIDES).astype(np.int64), minlength=_SIDES)
            if counts.max() > most:
                break
        together = np.concatenate(found)
        sides = [together[together[:, 1] % _SIDES == side] for side in range(_SIDES)]
        old, new = map(_to_unmatched_rows, sides)
        return old, new


def _to_unmatched_rows(pairs: np.ndarray) -> UnmatchedRows:
    return UnmatchedRows(np.sort(pairs[:, 1] // _SIDES).astype(np.int64), int(pairs[:, 0].sum()))


def _pairs_with_unique_hash(pairs: np.ndarray) -> np.ndarray:
    """The pairs whose hash occurs once."""
    order = np.argsort(pairs[:, 0])
    hashes = pairs[:, 0][order]
    differs = np.ones(len(hashes) + 1, bool)
    np.not_equal(hashes[1:], hashes[:-1], out=differs[1:-1])
    found: np.ndarray = pairs[order[differs[1:] & differs[:-1]]]
    return found
