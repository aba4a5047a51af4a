"""Hashes of rows, 64 bits each, by which two states of a table are compared and keys are counted.

The numbers of a row are mixed into its hash one after the other by a reversible step (xor, a multiplication by an odd
number, a shifted xor), and the finaliser of splitmix64 ends it (G. Steele et al., "Fast Splittable Pseudorandom Number
Generators", 2014). So rows that differ in one number never have the same hash, and rows that differ in more numbers
have it only by chance, once in 2**64. The same holds for lists that differ in one item, or in more.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

WORD = 8
_LITTLE = np.array([(1 << 8 * size) - 1 for size in range(WORD + 1)], np.uint64)
_BIG = ~np.array([(1 << 8 * (WORD - size)) - 1 for size in range(WORD + 1)], np.uint64)


@dataclass(frozen=True)
class TextWords:
    """The texts of a column, eight bytes at a time."""

    lengths: np.ndarray  # bytes of every value, integers [n]; undefined for nulls
    _starts: np.ndarray
    _text: np.ndarray

    @classmethod
    def from_column(cls, column: pa.Array) -> "TextWords":
        """Read a column of the type string or binary, large or not."""
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


_START = np.uint64(0x9E3779B97F4A7C15)
_STEP = np.uint64(0xFF51AFD7ED558CCD)
_FINAL = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_NULL = np.uint64(0xD1B54A32D192ED03)
_NOT_A_NUMBER = np.uint64(0x7FF8000000000000)
_SHIFT = np.uint64(32)
_BLOCK_ROWS = 1 << 15
"""Rows that are hashed at a time: intermediate arrays fit a core's cache, and reuse its memory."""


def row_hashes(columns: Sequence[pa.Array], numbers: "np.ndarray | np.uint64 | None" = None) -> np.ndarray:
    """Hash every row, given its columns of n rows each; uint64 [n]. Equal rows have equal hashes.

    `numbers` are further ones of the rows, uint64 [n], or one for all rows.
    """
    hashes = np.empty(len(columns[0]), np.uint64)
    for start in range(0, len(hashes), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        some = [column.slice(start, _BLOCK_ROWS) for column in columns]
        hashes[block] = _block_hashes(some, numbers[block] if isinstance(numbers, np.ndarray) else numbers)
    return hashes


def _block_hashes(columns: Sequence[pa.Array], numbers: "np.ndarray | np.uint64 | None") -> np.ndarray:
    hashes = np.full(len(columns[0]), _START)
    for column in columns:
        _mix_column(hashes, column)
    if numbers is not None:
        _mix_numbers(hashes, numbers)
    _finalize(hashes)
    return hashes


def _finalize(hashes: np.ndarray) -> None:
    for multiplier in _FINAL:
        hashes *= multiplier
        hashes ^= hashes >> _SHIFT


def _mix_numbers(hashes: np.ndarray, numbers: "np.ndarray | np.uint64") -> None:
    hashes ^= numbers
    hashes *= _STEP
    hashes ^= hashes >> _SHIFT


def _mix_column(hashes: np.ndarray, column: pa.Array) -> None:
    kind = column.type
    valid = None if column.null_count == 0 else column.is_valid().to_numpy(zero_copy_only=False)
    if valid is not None:
        hashes ^= np.where(valid, np.uint64(0), _NULL)
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        _mix_texts(hashes, column, valid)
        return
    if pa.types.is_struct(kind):
        _mix_numbers(hashes, np.uint64(0))
        for member in column.flatten():
            _mix_column(hashes, member)
        return
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        _mix_lists(hashes, column)
        return
    if pa.types.is_decimal(kind) or pa.types.is_fixed_size_binary(kind):
        _mix_texts(hashes, column.cast(pa.string() if pa.types.is_decimal(kind) else pa.binary()), valid)
        return
    numbers = _number_bits(column)
    _mix_numbers(hashes, numbers if valid is None else np.where(valid, numbers, np.uint64(0)))


def _number_bits(column: pa.Array) -> np.ndarray:
    """The bits of every value of a column of numbers, uint64 [n]; undefined for nulls."""
    kind = column.type
    if pa.types.is_floating(kind):
        values = column.cast(pa.float64()).fill_null(0.0).to_numpy()
        bits, unknown = values.view(np.uint64), np.isnan(values)
        return np.where(unknown, _NOT_A_NUMBER, bits) if unknown.any() else bits
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("us", kind.tz)).view(pa.int64())
    elif pa.types.is_date(kind):
        column = column.view(pa.int32()).cast(pa.int64())
    else:
        column = column.cast(pa.int64())
    return column.fill_null(0).to_numpy().view(np.uint64)


def _mix_texts(hashes: np.ndarray, column: pa.Array, valid: np.ndarray | None) -> None:
    """Mix in the length of every text and then its bytes, eight at a time."""
    words = TextWords.from_column(column)
    lengths = words.lengths if valid is None else np.where(valid, words.lengths, 0)
    _mix_numbers(hashes, lengths.astype(np.uint64))
    for position in range(0, int(lengths.max(initial=0)), WORD):
        rows = np.flatnonzero(lengths > position)
        if len(rows) == len(hashes):
            _mix_numbers(hashes, words.little_endian(position))
        else:
            some = hashes[rows]
            _mix_numbers(some, words.little_endian(position, rows))
            hashes[rows] = some


def _mix_lists(hashes: np.ndarray, column: pa.Array) -> None:
    """Mix in the length of every list, and then the sum of its items' hashes, each mixed with its position."""
    lengths = pc.list_value_length(column).fill_null(0).to_numpy().astype(np.int64)
    ends = np.cumsum(lengths)
    items = row_hashes([column.flatten()])
    positions = np.arange(len(items)) - np.repeat(ends - lengths, lengths)
    items ^= positions.astype(np.uint64) * _STEP
    _finalize(items)
    sums = np.concatenate([[np.uint64(0)], np.cumsum(items, dtype=np.uint64)])
    _mix_numbers(hashes, lengths.astype(np.uint64))
    _mix_numbers(hashes, sums[ends] - sums[ends - lengths])
