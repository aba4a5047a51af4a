"""A ring of samples in shared memory: one process writes, all others read without a lock."""

from collections.abc import Sequence

_HEAD_BYTES = 8


class Ring:
    """The newest samples; each is a row of 64-bit cells and has a number, from 1 on.

    A row is written before its number is, and one row more than `length` is kept, so that the row that is being
    written is none of those that are read.

    Args:
        memory: `Ring.size(width, length)` bytes, zeroed or as another process left them.
        width: Cells of a sample.
        length: Samples that are kept.
    """

    def __init__(self, memory: memoryview, width: int, length: int) -> None:
        self.width, self.length = width, length
        self._rows = length + 1
        self._newest = memory[:_HEAD_BYTES].cast("Q")
        self._cells = memory[_HEAD_BYTES : _HEAD_BYTES + self._rows * width * 8].cast("q")

    @staticmethod
    def size(width: int, length: int) -> int:
        return _HEAD_BYTES + (length + 1) * width * 8

    @property
    def newest(self) -> int:
        """The number of the newest sample; 0 before the first."""
        return self._newest[0]

    @property
    def oldest(self) -> int:
        """The number of the oldest sample that is kept; 1 before the first."""
        return max(1, self.newest - self.length + 1)

    def append(self, sample: Sequence[int]) -> None:
        """Write a sample, in the one process that writes."""
        number = self._newest[0] + 1
        start = number % self._rows * self.width
        for cell, value in enumerate(sample, start):
            self._cells[cell] = value
        self._newest[0] = number

    def sample(self, number: int, first: int = 0, count: int | None = None) -> list[int]:
        """`count` cells of a sample from `first` on; all of them by default."""
        start = number % self._rows * self.width
        return self._cells[start + first : start + (self.width if count is None else first + count)].tolist()

    def column(self, cell: int, most: int | None = None) -> list[int]:
        """A cell of the newest samples, at most `most` of them, the oldest first."""
        newest = self.newest
        kept = min(newest, self.length, self.length if most is None else most)
        cells, rows = self._cells[cell :: self.width].tolist(), self._rows
        return [cells[number % rows] for number in range(newest - kept + 1, newest + 1)]
