"""Counts of live values in shared memory: one block for each model of a worker, in total and in the last window.

Each worker writes its own memory; the metrics page adds the blocks of all. A window is one to two times as long as the
setting: its counts are the totals of now minus those at the second to last start of a window.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_KEY, _SIZE, _RELEASE, _LIVE, _TURNED_S, _NANOSECONDS, _NUM_HEAD = range(7)
_NAME_CELLS = 8
_HEAD = _NUM_HEAD + _NAME_CELLS
_COPIES = 3
"""Copies of the counts: now, at the start of the running window, and at the start of the one before."""
Cells = NDArray[np.uint64]


class DriftBlock:
    """The counts of one model in one worker.

    Attributes:
        total: uint64 [size], counts since the block was created.
    """

    def __init__(self, cells: Cells) -> None:
        self._cells = cells
        size = int(cells[_SIZE])
        counts = cells[_HEAD : _HEAD + _COPIES * size].reshape(_COPIES, size)
        self.total, self._turned, self._before = counts

    @property
    def key(self) -> int:
        return int(self._cells[_KEY])

    @property
    def name(self) -> str:
        return self._cells[_NUM_HEAD:_HEAD].tobytes().rstrip(b"\0").decode()

    @property
    def seconds(self) -> float:
        """Time spent on counting."""
        return float(self._cells[_NANOSECONDS]) / 1e9

    def add_time(self, nanoseconds: int) -> None:
        self._cells[_NANOSECONDS] += np.uint64(nanoseconds)

    def start_window_if_due(self, now: float, window_s: float) -> None:
        """Begin the next window if the running one has ended; the owner calls it before it counts."""
        if now - float(self._cells[_TURNED_S]) >= window_s:
            self._before[:] = self._turned if now - float(self._cells[_TURNED_S]) < 2 * window_s else self.total
            self._turned[:] = self.total
            self._cells[_TURNED_S] = int(now)

    def recent_counts(self, now: float, window_s: float) -> Cells:
        """Return the counts of the last one to two windows; zeros if the worker has counted nothing in them."""
        silent_s = now - float(self._cells[_TURNED_S])
        if silent_s >= 2 * window_s:
            return np.zeros_like(self.total)
        return self.total - (self._before if silent_s < window_s else self._turned)


class DriftCells:
    """The blocks in one worker's memory, one after the other; the first cell after the last block is 0."""

    def __init__(self, memory: memoryview) -> None:
        self._cells: Cells = np.frombuffer(memory, np.uint64)

    def open(self, name: str, key: int, size: int, now: float) -> DriftBlock | None:
        """Return the block of a model: an existing one with the same bins, else a new one.

        Args:
            key: Identifies the bins.
            size: Number of counts.

        Returns:
            None if there is no memory left.
        """
        needed, at, free = _HEAD + _COPIES * size, 0, None
        while at + _HEAD <= len(self._cells) and self._cells[at + _KEY]:
            block = DriftBlock(self._cells[at:])
            if block.name == name:
                if block.key == key and len(block.total) == size:
                    return block
                if len(block.total) == size:
                    free = at
                else:
                    self._cells[at + _NUM_HEAD : at + _HEAD] = 0  # without an owner from now on
            elif not block.name and len(block.total) == size and free is None:
                free = at
            at += _HEAD + _COPIES * len(block.total)
        start = at if free is None else free
        if start + needed > len(self._cells):
            return None
        return self._begin(start, name, key, size, now)

    def _begin(self, start: int, name: str, key: int, size: int, now: float) -> DriftBlock:
        cells = self._cells[start : start + _HEAD + _COPIES * size]
        cells[_NUM_HEAD:] = 0
        cells[_NUM_HEAD:_HEAD].view(np.uint8)[: len(name.encode())] = np.frombuffer(name.encode(), np.uint8)
        cells[_SIZE], cells[_TURNED_S], cells[_NANOSECONDS] = size, int(now), 0
        cells[_KEY] = key  # written last: a block with a key is complete for its readers
        return DriftBlock(self._cells[start:])

    def blocks(self) -> Iterator[DriftBlock]:
        at = 0
        while at + _HEAD <= len(self._cells) and self._cells[at + _KEY]:
            block = DriftBlock(self._cells[at:])
            if block.name:
                yield block
            at += _HEAD + _COPIES * len(block.total)
