"""Rows of 64-bit numbers in buckets by their first number, a hash: in memory, and beyond a bound in a file.

Equal hashes are in one bucket, so that each bucket can be processed separately. A two-way anti-join on this finds the
rows of each side that have no equal row on the other side, in memory that does not grow with the rows.
"""

import os
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

BUCKETS = 256
"""Number of buckets, so that a bucket fits a core's cache while it is sorted."""

WAITING_BYTES = 16 << 20
"""The hashes and row numbers of an anti-join are held in memory up to this size; beyond it they are in a file."""
_SHIFT = np.uint64(56)
_SIDES = 2
_AT_ONCE = BUCKETS // 16


class HashBuckets(ExitStack):
    """Collects rows of `numbers` numbers from many threads, and then returns them bucket by bucket.

    Beyond `waiting_bytes` they are written to a temporary file, which is removed when this process ends at the latest.
    """

    def __init__(self, folder: Path, *, numbers: int, waiting_bytes: int) -> None:
        super().__init__()
        self._folder = folder
        self._numbers = numbers
        self._most_waiting_bytes = waiting_bytes
        self._lock = threading.Lock()
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        """Rows in the order of their buckets, and the position at which each bucket begins and the last one ends."""
        self._waiting_bytes = 0
        self._file: BinaryIO | None = None
        self._runs: list[np.ndarray] = []
        """For each run in the file, the offset at which each bucket begins and the last one ends, in bytes."""

    def add(self, rows: np.ndarray) -> None:
        """Add rows, uint64 [n, numbers]."""
        buckets = (rows[:, 0] >> _SHIFT).astype(np.uint8)
        starts = np.concatenate([[0], np.cumsum(np.bincount(buckets, minlength=BUCKETS))])
        ordered = rows.take(np.argsort(buckets, kind="stable"), axis=0)
        with self._lock:
            self._waiting.append((ordered, starts))
            self._waiting_bytes += ordered.nbytes
            if self._waiting_bytes > self._most_waiting_bytes:
                self._write()

    def _write(self) -> None:
        if self._file is None:
            self._file = self.enter_context(tempfile.TemporaryFile(dir=self._folder))  # noqa: SIM115 - it is one
        ends = [self._file.tell()]
        for bucket in range(BUCKETS):
            ends.append(ends[-1] + self._file.write(self._rows_in_memory(bucket).data))
        self._file.flush()
        self._runs.append(np.array(ends))
        self._waiting, self._waiting_bytes = [], 0

    def _rows_in_memory(self, bucket: int) -> np.ndarray:
        parts = [rows[starts[bucket] : starts[bucket + 1]] for rows, starts in self._waiting]
        return np.concatenate([np.empty((0, self._numbers), np.uint64), *parts])

    def bucket(self, bucket: int) -> np.ndarray:
        """The rows of a bucket, uint64 [n, numbers]; call it after all rows have been added."""
        parts = [self._rows_in_memory(bucket)]
        for run in self._runs:
            assert self._file is not None
            read = os.pread(self._file.fileno(), int(run[bucket + 1] - run[bucket]), int(run[bucket]))
            parts.append(np.frombuffer(read, np.uint64).reshape(-1, self._numbers))
        return np.concatenate(parts)


@dataclass(frozen=True)
class UnmatchedRows:
    """The rows of one side whose hash no other row of either side has: ascending row numbers, and the hashes' sum."""

    rows: np.ndarray
    sum: int


class AntiJoin(HashBuckets):
    """Collects rows (hash, number, side) from many threads, and then finds those that are unmatched."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, numbers=2, waiting_bytes=WAITING_BYTES)

    def add_rows(self, side: int, hashes: np.ndarray, rows: np.ndarray) -> None:
        """Add the hashes, uint64 [n], and the row numbers of some rows of side 0 or 1."""
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
