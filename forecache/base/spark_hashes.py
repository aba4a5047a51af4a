"""Spark's two hashes of keys, in numpy, to the bit: `xxhash64`, by which splits are chosen, and that of its shuffles.

Columns are hashed one after the other, each with the hash of those before it as its seed; a null leaves that as it is.
XXH64 is Y. Collet's (its specification is doc/xxhash_spec.md of xxHash), the other A. Appleby's MurmurHash3_x86_32, but
for the last bytes of a text, each of which Spark mixes in like a number of four.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from forecache.base.hashes import TextWords

_U32, _U64 = np.uint32, np.uint64
_P1, _P2, _P3, _P4, _P5 = map(
    _U64, (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)
)
_SEED = 42
_STRIPE = 32  # XXH64 takes texts of so many bytes and more in four lanes
Words: TypeAlias = "NDArray[np.uint64]"
Halves: TypeAlias = "NDArray[np.uint32]"


def xxhash64(columns: Sequence[pa.Array]) -> NDArray[np.int64]:
    """Spark's `xxhash64` of rows, given their columns: texts, whole numbers, booleans, dates or timestamps (us)."""
    with np.errstate(over="ignore"):
        hashes = np.full(len(columns[0]), _SEED, _U64)
        for column in columns:
            hashes = _keep_nulls(column, hashes, _xxh64_text if _is_text(column) else _xxh64_number)
    return hashes.view(np.int64)


def shuffle_partitions(columns: Sequence[pa.Array], num_partitions: int) -> NDArray[np.int64]:
    """The number of the partition, int64 [n], into which Spark's `repartition` by columns puts each row."""
    with np.errstate(over="ignore"):
        hashes = np.full(len(columns[0]), _SEED, _U32)
        for column in columns:
            hashes = _keep_nulls(column, hashes, _murmur3_text if _is_text(column) else _murmur3_number)
    return hashes.view(np.int32).astype(np.int64) % num_partitions


def _is_text(column: pa.Array) -> bool:
    return pa.types.is_string(column.type) or pa.types.is_large_string(column.type)


def _keep_nulls(column: pa.Array, seeds: NDArray[Any], of: Callable[..., Any]) -> Any:
    if not column.null_count:
        return of(column, seeds)
    known = column.is_valid().to_numpy(zero_copy_only=False)
    hashes = seeds.copy()
    hashes[known] = of(column.drop_null(), seeds[known])
    return hashes


def _numbers(column: pa.Array) -> tuple[NDArray[np.int64], bool]:
    """The numbers that Spark hashes, and whether they have eight bytes instead of four."""
    kind = column.type
    if pa.types.is_date32(kind):
        column = column.cast(pa.int32())
    elif pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("us", kind.tz)).cast(pa.int64())
    elif pa.types.is_boolean(kind):
        column = column.cast(pa.int32())
    return column.to_numpy(zero_copy_only=False).astype(np.int64), column.type.bit_width == 64


def _rotate(words: Words, bits: int) -> Words:
    return (words << _U64(bits)) | (words >> _U64(64 - bits))


def _xxh64_number(column: pa.Array, seeds: Words) -> Words:
    numbers, is_long = _numbers(column)
    words = numbers.view(_U64)
    if is_long:
        return _xxh64_end(_mix_word(seeds + _P5 + _U64(8), words))
    return _xxh64_end(_mix_half(seeds + _P5 + _U64(4), words & _U64(0xFFFFFFFF)))


def _mix_word(hashes: Words, words: Words) -> Words:
    return _rotate(hashes ^ (_rotate(words * _P2, 31) * _P1), 27) * _P1 + _P4


def _mix_half(hashes: Words, halves: Words) -> Words:
    return _rotate(hashes ^ (halves * _P1), 23) * _P2 + _P3


def _xxh64_end(hashes: Words) -> Words:
    hashes = (hashes ^ (hashes >> _U64(33))) * _P2
    hashes = (hashes ^ (hashes >> _U64(29))) * _P3
    return hashes ^ (hashes >> _U64(32))


def _xxh64_text(column: pa.Array, seeds: Words) -> Words:
    words = TextWords.from_column(column)
    lengths = words.lengths.astype(np.int64)
    hashes = seeds + _P5 + lengths.astype(_U64)
    for position in range(0, _STRIPE, 8):
        rows = np.flatnonzero((lengths >= position + 8) & (lengths < _STRIPE))
        hashes[rows] = _mix_word(hashes[rows], words.little_endian(position, rows))
    done = lengths // 8 * 8
    rows = np.flatnonzero((lengths - done >= 4) & (lengths < _STRIPE))
    hashes[rows] = _mix_half(hashes[rows], _at(words, done, rows) & _U64(0xFFFFFFFF))
    done = lengths // 4 * 4
    for byte in range(3):
        rows = np.flatnonzero((lengths - done > byte) & (lengths < _STRIPE))
        last = _at(words, done + byte, rows) & _U64(0xFF)
        hashes[rows] = _rotate(hashes[rows] ^ (last * _P5), 11) * _P1
    hashes = _xxh64_end(hashes)
    for row in np.flatnonzero(lengths >= _STRIPE).tolist():
        hashes[row] = xxhash.xxh64_intdigest(column[row].as_py().encode(), int(seeds[row]))
    return hashes


def _at(words: TextWords, positions: NDArray[np.int64], rows: NDArray[np.int64]) -> Words:
    """Eight bytes of some rows, from a position of each, zero beyond the end."""
    found = np.zeros(len(rows), _U64)
    for position in np.unique(positions[rows]).tolist():
        some = positions[rows] == position
        found[some] = words.little_endian(position, rows[some])
    return found


def _murmur3_number(column: pa.Array, seeds: Halves) -> Halves:
    numbers, is_long = _numbers(column)
    words = numbers.view(_U64)
    hashes = _murmur3_mix(seeds, words.astype(_U32))
    if not is_long:
        return _murmur3_end(hashes, _U32(4))
    return _murmur3_end(_murmur3_mix(hashes, (words >> _U64(32)).astype(_U32)), _U32(8))


def _murmur3_mix(hashes: Halves, halves: Halves) -> Halves:
    halves = halves * _U32(0xCC9E2D51)
    halves = ((halves << _U32(15)) | (halves >> _U32(17))) * _U32(0x1B873593)
    hashes = hashes ^ halves
    return ((hashes << _U32(13)) | (hashes >> _U32(19))) * _U32(5) + _U32(0xE6546B64)


def _murmur3_end(hashes: Halves, lengths: "Halves | np.uint32") -> Halves:
    hashes = hashes ^ lengths
    hashes = (hashes ^ (hashes >> _U32(16))) * _U32(0x85EBCA6B)
    hashes = (hashes ^ (hashes >> _U32(13))) * _U32(0xC2B2AE35)
    return hashes ^ (hashes >> _U32(16))


def _murmur3_text(column: pa.Array, seeds: Halves) -> Halves:
    words = TextWords.from_column(column)
    lengths, hashes = words.lengths.astype(np.int64), seeds.copy()
    for position in range(0, int(lengths.max(initial=0)), 4):
        rows = np.flatnonzero(lengths >= position + 4)
        hashes[rows] = _murmur3_mix(hashes[rows], words.little_endian(position, rows).astype(_U32))
        for byte in range(3):
            rows = np.flatnonzero((lengths > position + byte) & (lengths < position + 4))
            last = words.little_endian(position + byte, rows).astype(np.uint8).view(np.int8)
            hashes[rows] = _murmur3_mix(hashes[rows], last.astype(np.int32).view(_U32))
    return _murmur3_end(hashes, lengths.astype(_U32))
