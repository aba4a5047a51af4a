"""The bytes of an Arrow text column as 64-bit numbers, for work on all its values at once."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

WORD = 8
_LITTLE = np.array([(1 << 8 * size) - 1 for size in range(WORD + 1)], np.uint64)
_BIG = ~np.array([(1 << 8 * (WORD - size)) - 1 for size in range(WORD + 1)], np.uint64)


@dataclass(frozen=True)
class TextWords:
    """The texts of a column, eight bytes at a time.

    Attributes:
        lengths: Bytes of every value, integers [n]; undefined for nulls.
    """

    lengths: np.ndarray
    _starts: np.ndarray
    _text: np.ndarray

    @classmethod
    def from_column(cls, column: pa.Array) -> "TextWords":
        """Args:
        column: Of the type string or binary, large or not.
        """
        _, offsets_buffer, data = column.buffers()
        large = column.type in (pa.large_string(), pa.large_binary())
        width = np.dtype(np.int64 if large else np.int32)
        offsets = np.frombuffer(offsets_buffer, width, len(column) + 1, column.offset * width.itemsize)
        first, last = int(offsets[0]), int(offsets[-1])
        text = np.zeros(last - first + WORD, np.uint8)
        if last > first:
            text[: last - first] = np.frombuffer(data, np.uint8, last - first, first)
        return cls(np.diff(offsets), offsets[:-1].astype(np.int64) - first, text)

    def little_endian(self, position: int, rows: "slice | np.ndarray" = slice(None)) -> np.ndarray:
        """Bytes `position` to `position + 8` of the rows' values as little-endian uint64, zero beyond the end."""
        return self._windows("<u8")[self._starts[rows] + position] & _LITTLE[self._remaining_bytes(position, rows)]

    def big_endian(self, position: int) -> np.ndarray:
        """The same of all values, big-endian, so that the order of the numbers is the order of the bytes."""
        return (
            self._windows(">u8")[self._starts + position].astype(np.uint64)
            & _BIG[self._remaining_bytes(position, slice(None))]
        )

    def _remaining_bytes(self, position: int, rows: "slice | np.ndarray") -> np.ndarray:
        return np.clip(self.lengths[rows] - position, 0, WORD)

    def _windows(self, kind: str) -> np.ndarray:
        """View of the text as overlapping eight-byte numbers, one beginning at every byte."""
        return np.ndarray(len(self._text) - WORD + 1, kind, self._text, strides=(1,))
