"""An anti-join both ways: which rows of two sides have no equal on the other, by their hashes.

Its memory does not grow with the rows. Equal hashes meet in one of the buckets that their highest bits choose, and each
bucket is compared by itself. Rows beyond a bound wait in a file, one run after another, each in the order of buckets.
"""

import os
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

WAITING_BYTES = 16 << 20
"""Hashes and row numbers that wait in memory; where they are more, they go to the file."""

_BUCKET_BITS = 8
_BUCKETS = 1 << _BUCKET_BITS
_SHIFT = np.uint64(64 - _BUCKET_BITS)
_SIDES = 2
_PAIR = 2 * np.dtype(np.uint64).itemsize
"""Bytes of a row: its hash, and its number and side."""


@dataclass(frozen=True)
class UnmatchedRows:
    """The rows of one side whose hash no other row of both sides has.

    Attributes:
        rows: Their numbers, int64 [n], ascending.
        sum: Of their hashes.
    """

    rows: np.ndarray
    sum: int


class AntiJoin:
    """Takes in rows from many threads, and then says which are unmatched.

    Args:
        folder: For the file, which goes with this process if not before.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._waiting: list[np.ndarray] = []
        self._waiting_bytes = 0
        self._file: BinaryIO | None = None
        self._runs: list[np.ndarray] = []
        """Of each run in the file, where in it each bucket begins and the last one ends, in bytes."""

    def add(self, side: int, hashes: np.ndarray, rows: np.ndarray) -> None:
        """Take in rows of side 0 or 1.

        Args:
            hashes: uint64 [n].
            rows: Their numbers on their side, integers [n].
        """
        pairs = np.empty((len(hashes), 2), np.uint64)
        pairs[:, 0] = hashes
        pairs[:, 1] = rows * _SIDES + side
        with self._lock:
            self._waiting.append(pairs)
            self._waiting_bytes += pairs.nbytes
            if self._waiting_bytes > WAITING_BYTES:
                self._write(self._take_waiting())

    def _take_waiting(self) -> tuple[np.ndarray, np.ndarray]:
        """What waits, in the order of the buckets, and where each bucket begins and the last one ends."""
        pairs = np.concatenate([np.empty((0, 2), np.uint64), *self._waiting])
        self._waiting, self._waiting_bytes = [], 0
        buckets = (pairs[:, 0] >> _SHIFT).astype(np.uint8)
        starts = np.concatenate([[0], np.cumsum(np.bincount(buckets, minlength=_BUCKETS))])
        return pairs.take(np.argsort(buckets, kind="stable"), axis=0), starts

    def _write(self, run: tuple[np.ndarray, np.ndarray]) -> None:
        pairs, starts = run
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed with this object
        self._runs.append(self._file.tell() + starts * _PAIR)
        self._file.write(pairs.data)
        self._file.flush()

    def unmatched(self, threads: ThreadPoolExecutor, *, most: int) -> tuple[UnmatchedRows, UnmatchedRows]:
        """The unmatched rows of either side, all of them or more than `most` of a side."""
        rest, starts = self._take_waiting()

        def compare(bucket: int) -> np.ndarray:
            return _single(np.concatenate([*self._read(bucket), rest[starts[bucket] : starts[bucket + 1]]]))

        found: list[np.ndarray] = []
        counts = np.zeros(_SIDES, np.int64)
        for first in range(0, _BUCKETS, _BUCKETS // 16):
            for pairs in threads.map(compare, range(first, first + _BUCKETS // 16)):
                found.append(pairs)
                counts += np.bincount((pairs[:, 1] % _SIDES).astype(np.int64), minlength=_SIDES)
            if counts.max() > most:
                break
        together = np.concatenate(found)
        sides = [together[together[:, 1] % _SIDES == side] for side in range(_SIDES)]
        old, new = map(_rows_of, sides)
        return old, new

    def _read(self, bucket: int) -> Iterator[np.ndarray]:
        for run in self._runs:
            assert self._file is not None
            start, end = int(run[bucket]), int(run[bucket + 1])
            yield np.frombuffer(os.pread(self._file.fileno(), end - start, start), np.uint64).reshape(-1, 2)

    def __enter__(self) -> "AntiJoin":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()


def _rows_of(pairs: np.ndarray) -> UnmatchedRows:
    return UnmatchedRows(np.sort(pairs[:, 1] // _SIDES).astype(np.int64), int(pairs[:, 0].sum()))


def _single(pairs: np.ndarray) -> np.ndarray:
    """The pairs whose hash is there once."""
    order = np.argsort(pairs[:, 0])
    hashes = pairs[:, 0][order]
    differs = np.ones(len(hashes) + 1, bool)
    np.not_equal(hashes[1:], hashes[:-1], out=differs[1:-1])
    found: np.ndarray = pairs[order[differs[1:] & differs[:-1]]]
    return found
