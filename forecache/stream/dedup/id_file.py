"""An immutable file of sorted ids, read through a memory map.

Little-endian arrays of 64-bit words, one after the other, for n ids of 16 bytes each:

- heads [n], ascending, and tails [n]: the first and the second half of each id;
- filter [words]: a Bloom filter whose blocks are single words (F. Putze, P. Sanders, J. Singler: "Cache-, hash- and
  space-efficient Bloom filters", 2007). The head chooses the word of an id, the tail its bits in it;
- starts [words // 128 + 2]: the place of the first id of each 128 words, about 512 ids.

The filter (2 bytes an id) answers nearly every query for a new id: about 0.4 percent continue to heads and tails, and
read one or two pages of 4 KiB there.
"""

import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecache.base.files import sync

Words = NDArray[np.uint64]
_IDS_A_WORD, _BITS, _WORDS_A_START = 4, 5, 128
_SHIFTS = np.arange(0, 6 * _BITS, 6, dtype=np.uint64)[:, np.newaxis]
_CHUNK = 1 << 14
_SYNC_EVERY = 16 << 20


@dataclass(frozen=True)
class IdQuery:
    """A query for n ids."""

    heads: Words  # uint64 [n], the first halves
    tails: Words  # the second halves
    bits: Words  # their bits in the word of a filter

    @staticmethod
    def from_digests(digests: bytes) -> "IdQuery":
        """Make a query for ids of 16 bytes, concatenated."""
        halves = np.frombuffer(digests, "<u8").reshape(-1, 2)
        heads, tails = halves[:, 0].copy(), halves[:, 1].copy()
        return IdQuery(heads, tails, _bits_of(tails))


class IdFile:
    """A file of `count` ids that were received on one day; OSError if it is missing or has another size."""

    def __init__(self, path: Path, day: int, count: int) -> None:
        self.path, self.day, self.count = path, day, count
        sizes = _sizes(count)
        with path.open("rb") as source:
            if os.fstat(source.fileno()).st_size != 8 * sum(sizes):
                raise OSError(f"{path} does not have the size of {count} ids.")
            mapped = mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)
        self.heads, self.tails, self._filter, self._starts = _split(np.frombuffer(mapped, "<u8"), sizes)
        start = 16 * count // mmap.PAGESIZE * mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, start, len(mapped) - start)

    def contains(self, asked: IdQuery) -> NDArray[np.bool_]:
        """Return True for each id that the file has, bool [n]."""
        words = _words_of(asked.heads, len(self._filter))
        found: NDArray[np.bool_] = (self._filter[words] & asked.bits) == asked.bits
        if found.any():
            for place in np.flatnonzero(found).tolist():
                found[place] = self._contains_one(int(words[place]), asked.heads[place], asked.tails[place])
        return found

    def _contains_one(self, word: int, head: np.uint64, tail: np.uint64) -> bool:
        start, end = self._starts[word // _WORDS_A_START :][:2].tolist()
        place = start + int(self.heads[start:end].searchsorted(head))
        while place < end and self.heads[place] == head:
            if self.tails[place] == tail:
                return True
            place += 1
        return False


def write_ids(path: Path, digests: bytes) -> int:
    """Write a file of concatenated ids of 16 bytes in any order, and sync it; returns their number."""
    halves = np.frombuffer(digests, "<u8").reshape(-1, 2)
    order = np.argsort(halves[:, 0], kind="stable")
    with _Builder(path, len(order)) as builder:
        for start in range(0, len(order), _CHUNK):
            part = halves[order[start : start + _CHUNK]]
            builder.add(part[:, 0].copy(), part[:, 1].copy())
    return len(order)


def merge_ids(path: Path, files: Sequence[IdFile]) -> Iterator[None]:
    """Merge id files into one, a part at each step; only that part is in memory."""
    count = sum(file.count for file in files)
    parts = max(1, count // _CHUNK)
    with _Builder(path, count) as builder:
        before = [0] * len(files)
        for part in range(1, parts + 1):
            upto = [
                file.count if part == parts else int(file.heads.searchsorted(np.uint64((part << 64) // parts)))
                for file in files
            ]
            slices = [slice(start, end) for start, end in zip(before, upto, strict=True)]
            heads = np.concatenate([file.heads[each] for file, each in zip(files, slices, strict=True)])
            tails = np.concatenate([file.tails[each] for file, each in zip(files, slices, strict=True)])
            order = np.argsort(heads, kind="stable")
            builder.add(heads[order], tails[order])
            before = upto
            yield


class _Builder:
    """Writes a file of `count` ids, which are added in ascending order; it is synced when the block ends."""

    def __init__(self, path: Path, count: int) -> None:
        self._path, self._sizes = path, _sizes(count)
        self._added = self._unsynced = 0
        self._counts = np.zeros(self._sizes[3] - 1, np.uint64)
        self._last_word, self._last_bits = -1, np.uint64(0)

    def __enter__(self) -> "_Builder":
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        os.ftruncate(self._file, 8 * sum(self._sizes))
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            if kind is None:
                starts = np.concatenate([np.zeros(1, np.uint64), np.cumsum(self._counts, dtype=np.uint64)])
                self._write(3, 0, starts)
        finally:
            os.close(self._file)
        if kind is None:
            sync(self._path)

    def add(self, heads: Words, tails: Words) -> None:
        if not len(heads):
            return
        self._write(0, self._added, heads)
        self._write(1, self._added, tails)
        self._added += len(heads)
        words = _words_of(heads, self._sizes[2])
        buckets = (words // _WORDS_A_START).astype(np.intp)
        counted = np.bincount(buckets - buckets[0])
        self._counts[buckets[0] : buckets[0] + len(counted)] += counted.astype(np.uint64)
        edges = np.concatenate([[0], np.flatnonzero(np.diff(words)) + 1])
        first, last = int(words[0]), int(words[-1])
        part = np.zeros(last - first + 1, np.uint64)
        part[(words[edges] - words[0]).astype(np.intp)] = np.bitwise_or.reduceat(_bits_of(tails), edges)
        if first == self._last_word:
            part[0] |= self._last_bits
        self._last_word, self._last_bits = last, part[-1]
        self._write(2, first, part)

    def _write(self, array: int, place: int, values: NDArray[Any]) -> None:
        data, at = memoryview(values.astype("<u8", copy=False).data).cast("B"), 8 * (sum(self._sizes[:array]) + place)
        while data:
            done = os.pwrite(self._file, data, at)
            data, at = data[done:], at + done
            self._unsynced += done
        if self._unsynced > _SYNC_EVERY:
            # In small steps: one large flush would delay the stream's own commits.
            os.fdatasync(self._file)
            self._unsynced = 0


def _sizes(count: int) -> tuple[int, int, int, int]:
    """Numbers of words of heads, tails, filter and starts."""
    words = max(1, count // _IDS_A_WORD)
    return count, count, words, words // _WORDS_A_START + 2


def _split(words: Words, sizes: Sequence[int]) -> list[Words]:
    return np.split(words, np.cumsum(sizes)[:-1])


def _words_of(heads: Words, words: int) -> Words:
    """The word of each id in a filter of `words` words; ascending like the heads."""
    found: Words = ((heads >> np.uint64(32)) * np.uint64(words)) >> np.uint64(32)
    return found


def _bits_of(tails: Words) -> Words:
    bits: Words = np.bitwise_or.reduce(np.uint64(1) << ((tails >> _SHIFTS) & np.uint64(63)), axis=0)
    return bits
