"""The index of a base segment: from a key's hash straight to where in the file its entry lies.

LMDB's tree costs a read of memory for each of a dozen steps, one after the other. The index lies behind the last page
of each LMDB file and leads to many entries with a dozen vector operations. It is a short cut, not a second truth: it
says where a record may be, the key in it decides, and where that is another, LMDB is asked. Of packed entries, an index
with a slot to spare says also that a key is not there; their publish is read back so.

Format: a header of 64 bytes (the magic, the number of buckets, and that of the entries whose record no slot can hold),
then the buckets of eight slots of 64 bits. A slot holds, little-endian, half the offset of a record in the file (32
bits), the record's length (16 bits) and a part of its key's hash (16 bits); 0 is an empty slot. A record is the key's
length (16 bits), the key and the entry. One without a slot (more than eight in a bucket, an entry on LMDB pages of its
own, or more than 8 GiB into the file) is found by LMDB alone.
"""

import mmap
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import xxhash

from forecache.store.segment.lmdb_pages import leaf_records

MAGIC = b"fcindex2"
_SLOTS = 8
_ROWS_PER_BUCKET = 3.4
"""Leaves one entry in 280 without a place, at 19 bytes an entry."""
_ROW_BYTES = 8 * _SLOTS
_SLOT = np.dtype([("half", "<u4"), ("length", "<u2"), ("tag", "<u2")])
_U1, _U2, _U4 = np.dtype("u1"), np.dtype("<u2"), np.dtype("<u4")
_NONE = np.empty(0, np.int64)
_PREFIXES = [length.to_bytes(2, "little") for length in range(512)]
"""What a record begins with, by the length of its key."""
_MAX_LENGTH, _MAX_HALF = (1 << 16) - 1, (1 << 32) - 1


def key_hashes(keys: Sequence[bytes]) -> np.ndarray:
    """XXH3-64 of every key, uint64 [n]."""
    return np.fromiter(map(xxhash.xxh3_64_intdigest, keys), np.uint64, len(keys))


def append_index(path: Path, hashes: np.ndarray) -> None:
    """Write the index of an LMDB file behind its last page.

    Args:
        hashes: XXH3-64 of the file's keys in their order, uint64 [n].
    """
    offsets, lengths = leaf_records(path)
    assert len(offsets) == len(hashes), f"{path} holds {len(offsets)} entries, not {len(hashes)}"
    buckets = max(1, int(len(hashes) / _ROWS_PER_BUCKET))
    fits = (lengths > 0) & (lengths <= _MAX_LENGTH) & (offsets // 2 <= _MAX_HALF)
    hashes = hashes[fits]
    slots = np.empty(len(hashes), _SLOT)
    slots["half"], slots["length"], slots["tag"] = offsets[fits] // 2, lengths[fits], _tags(hashes)
    bucket = _buckets_of(hashes, buckets)
    order = np.argsort(bucket, kind="stable")
    bucket = bucket[order]
    first = np.searchsorted(bucket, bucket)
    rank = np.arange(len(bucket)) - first
    has_place = rank < _SLOTS
    table = np.zeros((buckets, _SLOTS), _SLOT)
    table[bucket[has_place], rank[has_place]] = slots[order][has_place]
    with open(path, "r+b") as file:
        file.seek(0, 2)
        numbers = np.array([buckets, np.count_nonzero(~fits)], "<u8").tobytes()
        file.write((MAGIC + numbers).ljust(_ROW_BYTES, b"\0"))
        table.tofile(file)


def _buckets_of(hashes: np.ndarray, buckets: "int | np.ndarray") -> np.ndarray:
    """The upper half of every hash, scaled to the buckets, int64 [n] (D. Lemire, "Fast Random Integer Generation in an
    Interval", 2019)."""
    upper = hashes.view(_U4)[1::2]
    return np.multiply(upper, buckets, dtype=np.int64) >> 32


def _tags(hashes: np.ndarray) -> np.ndarray:
    """The second 16 bits of every hash, of which the first choose the shard, uint16 [n]."""
    return hashes.view(_U2)[1::4]


@lru_cache(64)
def _masks(longest: int) -> np.ndarray:
    """By a key's length, which of the first 2 + `longest` bytes are its own where keys end at the same place."""
    return np.arange(2 + longest) >= longest - np.arange(longest + 1)[:, None]


class Index:
    """Entries of a base segment by their keys.

    Args:
        mapped: The segment's files, one after the other.
        starts: Where in it each file begins.
        pages: Bytes of each file that are LMDB's; the index is behind them.

    Raises:
        ValueError: It is not there.
    """

    def __init__(self, mapped: mmap.mmap, starts: Sequence[int], pages: Sequence[int]) -> None:
        self._map = mapped
        self._bytes = np.frombuffer(mapped, np.uint8)
        self._buckets = np.frombuffer(mapped, "<u8").reshape(-1, _SLOTS)
        headers = [start + size for start, size in zip(starts, pages, strict=True)]
        if any(mapped[header : header + len(MAGIC)] != MAGIC for header in headers):
            raise ValueError("there is none behind the pages of every file")
        counts, unfit = np.array([np.frombuffer(mapped, "<i8", 2, header + 8) for header in headers]).T
        # By the first byte of a hash, which has the bits that choose the shard.
        shards = np.arange(256) & (len(headers) - 1)
        self._halves = np.array(starts, np.int64)[shards] // 2
        self._first_row = np.array([header // _ROW_BYTES + 1 for header in headers], np.int64)[shards]
        self._counts = counts[shards]
        self._is_whole = not unfit.any()
        self._windows: dict[int, np.ndarray] = {}
        """By a number of bytes, each stretch of so many in the region as one item."""

    def close(self) -> None:
        """Give up the mapping: it ends once no thread reads from it any more, and later reads fail."""
        del self._map, self._bytes, self._buckets, self._windows

    def find(self, keys: Sequence[bytes], hashes: np.ndarray) -> tuple[list[bytes | None], list[int]]:
        """The entry in the place that the index has for each key, and the positions where that is another key's.

        Args:
            hashes: From `key_hashes`, uint64 [n].
        """
        _, _, slots, halves = self._places(hashes)
        starts = halves * 2
        return self._entries(keys, starts, starts + slots.view(_U2)[2::4])

    def find_packed(
        self, keys: Sequence[bytes], hashes: np.ndarray, size: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same of a segment whose entries have `size` bytes each.

        Returns:
            The entries, uint8 [n, size]; the positions of keys that LMDB alone can find, and of those that are not in
            the segment, int64.
        """
        buckets, same_tag, _, halves = self._places(hashes)
        lengths = list(map(len, keys))
        longest = max(lengths)
        head = 2 + longest
        if min(lengths) == longest:  # the usual case
            prefix = longest.to_bytes(2, "little")
            records = self._copied(halves * 2, head + size)
            heads, wanted = records[:, :head], prefix + prefix.join(keys)
            if heads.tobytes() == wanted:
                return records[:, head:], _NONE, _NONE
            differ = (heads != np.frombuffer(wanted, np.uint8).reshape(heads.shape)).any(axis=1)
        else:
            # Each is copied from so far before its record that all entries begin at the same place.
            of_keys = np.fromiter(lengths, np.int64, len(keys))
            records = self._copied(halves * 2 + (of_keys - longest), head + size)
            heads = records[:, :head][_masks(longest).take(of_keys, 0)]
            parts: list[bytes] = [b""] * (2 * len(keys))
            parts[::2], parts[1::2] = [_PREFIXES[length] for length in lengths], keys
            wanted = b"".join(parts)
            if heads.tobytes() == wanted:
                return records[:, head:], _NONE, _NONE
            first = np.cumsum(of_keys + 2) - of_keys - 2
            differ = np.logical_or.reduceat(heads != np.frombuffer(wanted, np.uint8), first)
        wrong = np.flatnonzero(differ)
        # A key that had no place left is in a full bucket.
        absent = (buckets[wrong] == 0).any(axis=1) & ~same_tag[wrong].any(axis=1) & self._is_whole
        return records[:, head:], wrong[~absent], wrong[absent]

    def _copied(self, starts: np.ndarray, size: int) -> np.ndarray:
        """`size` bytes of the region from each place, uint8 [n, size]."""
        windows = self._windows.get(size)
        if windows is None:
            windows = np.ndarray(len(self._bytes) - size + 1, f"V{size}", self._bytes, 0, (1,))
            self._windows[size] = windows
        return windows[starts].view(np.uint8).reshape(len(starts), size)

    def _places(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Where the record of each hash may be.

        Returns:
            The buckets, uint64 [n, 8]; which of their slots have its part of the hash, bool [n, 8]; the first of these,
            uint64 [n]; and where in the region its record begins, in units of two bytes, int64 [n].
        """
        first_bytes = hashes.view(_U1)[::8]
        places = _buckets_of(hashes, self._counts.take(first_bytes))
        places += self._first_row.take(first_bytes)
        buckets = self._buckets.take(places, axis=0)
        same_tag = buckets.view(_U2)[:, 3::4] == _tags(hashes)[:, None]
        chosen = same_tag.argmax(axis=1)
        chosen += np.arange(0, buckets.size, _SLOTS)
        slots = buckets.ravel().take(chosen)
        halves = self._halves.take(first_bytes)
        halves += slots.view(_U4)[::2]
        return buckets, same_tag, slots, halves

    def _entries(
        self, keys: Sequence[bytes], starts: np.ndarray, ends: np.ndarray
    ) -> tuple[list[bytes | None], list[int]]:
        """The entries in the records at the given places, and the positions of records of other keys."""
        region = self._map
        lengths = set(map(len, keys))
        if len(lengths) > 1:
            records = [region[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
            heads = [len(key).to_bytes(2, "little") + key for key in keys]
            pairs = list(zip(records, heads, strict=True))
            wrong = [place for place, (record, head) in enumerate(pairs) if not record.startswith(head)]
            return [record[len(head) :] for record, head in pairs], wrong
        # The usual case: keys of one length are compared all at once.
        length = lengths.pop()
        prefix = length.to_bytes(2, "little")
        there, wanted = self._bytes.take(starts[:, None] + np.arange(2 + length)), prefix + prefix.join(keys)
        # Side by side the far ends come sooner than one after the other, and the slices find them in the cache.
        self._bytes.take(ends)
        starts += 2 + length
        entries: list[bytes | None]
        entries = [region[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        if there.tobytes() == wanted:
            return entries, []
        differ = there != np.frombuffer(wanted, np.uint8).reshape(there.shape)
        return entries, np.flatnonzero(differ.any(axis=1)).tolist()
