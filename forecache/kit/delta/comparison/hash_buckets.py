"""Rows of 64-bit numbers in buckets by their first number, a hash: in memory, and beyond a bound in a file.

Equal hashes are in one bucket, so that each bucket can be processed separately.
"""

import os
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

BUCKETS = 256
"""Number of buckets, so that a bucket fits a core's cache while it is sorted."""

_SHIFT = np.uint64(56)


class HashBuckets(ExitStack):
    """Collects rows from many threads, and then returns them bucket by bucket.

    Args:
        folder: For the temporary file, which is removed when this process ends at the latest.
        numbers: Numbers of a row, its hash included.
        waiting_bytes: Size of the rows that are held in memory; beyond it they are written to the file.
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
