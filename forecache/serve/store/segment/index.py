"""Short cuts to entries: the index of a base segment, and the filter of a version's delta segments.

LMDB's tree costs a read of memory for each of a dozen steps, one after the other. The index, which follows the last
page of each LMDB file of a base, maps a key's hash to the offset of its entry, and finds many entries with a dozen
vector operations. It gives the likely offset of a record, whose key is compared; if it is another key, the entry is
read through LMDB. For packed entries, an index bucket with a free slot also proves that a key is missing; their publish
is read back this way.

Format: a header of 64 bytes (the magic, the number of buckets, and that of the entries whose record no slot can hold),
then the buckets of eight slots of 64 bits. A slot holds, little-endian, half the offset of a record in the file (32
bits), the record's length (16 bits) and a part of its key's hash (16 bits); 0 is an empty slot. A record is the key's
length (16 bits), the key and the entry. One without a slot (more than eight in a bucket, an entry on LMDB pages of its
own, or more than 8 GiB into the file) is found by LMDB alone.

The filter of a version tells which deltas may hold a key: 2**n slots with a bit for each delta, of which the low bits
of a key's hash choose one. With eight or more slots per delta entry, at most one in eight reads of keys that no delta
holds looks into a delta in vain. Format: eight bytes, the first is the slot width in bytes (1, 2, 4 or 8); then the
slots, little-endian.
"""

import mmap
import struct
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import xxhash

from forecache.base.files import sync, write_durably
from forecache.kit.versioned.verify import file_checksum
from forecache.serve.store.layout import HASHES_FILE, StoreLayout
from forecache.serve.store.manifest import SegmentInfo, ShardInfo

_MAGIC, _FORMAT = 0xBEEFC0DE, 1
_META = struct.Struct("<16x II 16x I")  # magic, format, page size
_ROOT = struct.Struct("<128x QQQ")  # root of the main tree, last page, transaction
_HEADER, _FLAGS, _LOWER_AT = 16, 10, 12
_BRANCH = 0x01
_KEY_SIZE = 6
_NO_ROOT = (1 << 64) - 1


def pages_size(content: bytes | memoryview) -> int:
    """Bytes of the pages of an LMDB file that starts with `content` (two pages or more)."""
    page_size, _, last = newest_meta(content)
    return (last + 1) * page_size


def leaf_records(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(offsets of the entries' records in an LMDB file, their lengths in bytes), in the keys' order, int64 [n].

    A record is the key's length (two bytes, little-endian), the key and its data. Its length is 0 where the data is too
    long for a page and lies elsewhere. The walk takes all pages of a level at once. In LMDB's data format 1, a leaf
    node is a header of eight bytes (half-words: the two of the data's size, flags, the key's size), the key and the
    data; see struct MDB_page, MDB_node and MDB_meta in LMDB's mdb.c.
    """
    halves = np.memmap(path, "<u2", "r")
    page_size, root, _ = newest_meta(halves.data.cast("B"))
    if root == _NO_ROOT:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    pages = np.array([root], np.int64)
    while True:
        starts = pages * (page_size // 2)
        counts = (halves[starts + _LOWER_AT // 2].astype(np.int64) - _HEADER) // 2
        owners = np.repeat(starts, counts)
        numbers = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
        nodes = owners + halves[owners + _HEADER // 2 + numbers] // 2
        low, high, flags = (halves[nodes + word].astype(np.int64) for word in range(3))
        if not halves[starts[0] + _FLAGS // 2] & _BRANCH:
            break
        pages = low | high << 16 | flags << 32
    lengths = 2 + halves[nodes + _KEY_SIZE // 2].astype(np.int64) + (low | high << 16)
    return nodes * 2 + _KEY_SIZE, np.where(flags == 0, lengths, 0)


def page_size_of(content: bytes | memoryview) -> int:
    """The size of the pages of an LMDB file that starts with `content`."""
    magic, version, page_size = _META.unpack_from(content)
    if (magic, version) != (_MAGIC, _FORMAT):
        raise ValueError(f"not an LMDB file of data format {_FORMAT}: magic {magic:#x}, format {version}")
    return int(page_size)


def newest_meta(content: bytes | memoryview) -> tuple[int, int, int]:
    """(page size, root page of the main tree, number of the last page) by the newer one of the two meta pages."""
    page_size = page_size_of(content)
    root, last, _ = max((_ROOT.unpack_from(content, page) for page in (0, page_size)), key=lambda meta: meta[2])
    return page_size, root, last


MAGIC = b"fcindex2"
_SLOTS = 8
_ROWS_PER_BUCKET = 3.4  # leaves one entry in 280 without a slot, at 19 bytes an entry
_ROW_BYTES = 8 * _SLOTS
_SLOT = np.dtype([("half", "<u4"), ("length", "<u2"), ("tag", "<u2")])
_U1, _U2, _U4 = np.dtype("u1"), np.dtype("<u2"), np.dtype("<u4")
_NONE = np.empty(0, np.int64)
_32, _LOWER = np.array(32, np.uint64), np.array((1 << 32) - 1, np.uint64)
_MAX_LENGTH, _MAX_HALF = (1 << 16) - 1, (1 << 32) - 1


def key_hashes(keys: Sequence[bytes]) -> np.ndarray:
    return np.fromiter(map(xxhash.xxh3_64_intdigest, keys), np.uint64, len(keys))


def append_index(path: Path, hashes: np.ndarray) -> None:
    """Write the index of an LMDB file after its last page; hashes are of its keys in their order, uint64 [n]."""
    offsets, lengths = leaf_records(path)
    assert len(offsets) == len(hashes), f"{path} holds {len(offsets)} entries, not {len(hashes)}"
    buckets = max(1, int(len(hashes) / _ROWS_PER_BUCKET))
    fits = (lengths > 0) & (lengths <= _MAX_LENGTH) & (offsets // 2 <= _MAX_HALF)
    hashes = hashes[fits]
    slots = np.empty(len(hashes), _SLOT)
    slots["half"], slots["length"], slots["tag"] = offsets[fits] // 2, lengths[fits], _tags(hashes)
    bucket = _buckets_of(hashes, np.uint64(buckets)).view(np.int64)
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


def _buckets_of(hashes: np.ndarray, buckets: "np.uint64 | np.ndarray") -> np.ndarray:
    """The upper half of every hash, scaled to the buckets, uint64 [n] (D. Lemire, "Fast Random Integer Generation in an
    Interval", 2019)."""
    scaled = hashes >> _32
    scaled *= buckets
    scaled >>= _32
    return scaled


def _tags(hashes: np.ndarray) -> np.ndarray:
    """The second 16 bits of every hash, of which the first choose the shard, uint16 [n]."""
    return hashes.view(_U2)[1::4]


@lru_cache(64)
def _masks(longest: int) -> np.ndarray:
    """Masks by key length: which of `longest` bytes belong to a key, if all keys end at the same place."""
    return np.arange(longest) >= longest - np.arange(longest + 1)[:, None]


class Index:
    """Entries of a base segment by their keys; raises ValueError if a file has no index after its LMDB `pages`.

    The region `mapped` has the segment's files, each from its offset in `starts` on.
    """

    def __init__(self, mapped: mmap.mmap, starts: Sequence[int], pages: Sequence[int]) -> None:
        self._map = mapped
        self._bytes = np.frombuffer(mapped, np.uint8)
        self._half_words = np.frombuffer(mapped, _U2)
        self._buckets = np.frombuffer(mapped, "<u8").reshape(-1, _SLOTS)
        headers = [start + size for start, size in zip(starts, pages, strict=True)]
        if any(mapped[header : header + len(MAGIC)] != MAGIC for header in headers):
            raise ValueError("there is none behind the pages of every file")
        counts, unfit = np.array([np.frombuffer(mapped, "<i8", 2, header + 8) for header in headers]).T
        # Of each file the number of its buckets, the row of its first one, and where it begins, in half-words.
        self._counts = counts.astype(np.uint64)
        self._first_rows = np.array([header // _ROW_BYTES + 1 for header in headers], np.uint64)
        self._first_halves = np.array([start // 2 for start in starts], np.uint64)
        self._shard_mask = np.array(len(headers) - 1, np.uint64)
        self._is_whole = not unfit.any()
        self._windows: dict[int, np.ndarray] = {}

    @property
    def region(self) -> tuple[int, int]:
        """(first, last address) of the mapping."""
        first = self._bytes.ctypes.data
        return first, first + len(self._bytes)

    def close(self) -> None:
        """Release the mapping: it ends once no thread reads from it any more, and later reads fail."""
        del self._map, self._bytes, self._half_words, self._buckets, self._windows

    def find(self, keys: Sequence[bytes], hashes: np.ndarray) -> tuple[list[bytes | None], list[int]]:
        """(entry at the likely offset for each key, positions of keys for which that is another key's entry)."""
        _, _, slots, halves = self._places(hashes)
        starts = halves * 2
        return self._entries(keys, starts, starts + slots.view(_U2)[2::4])

    def find_packed(
        self, keys: Sequence[bytes], hashes: np.ndarray, size: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same of a segment whose entries have `size` bytes each.

        The entries, [n] of `size` bytes each, are the caller's own; then come the positions of keys that LMDB alone can
        find, and of those that are not in the segment, int64.
        """
        buckets, same_tag, _, places = self._places(hashes)
        lengths = list(map(len, keys))
        longest = max(lengths)
        of_keys = np.fromiter(lengths, np.int64, len(keys))
        of_records = self._half_words.take(places)
        places += places
        places += of_keys  # where the entries begin, less the two bytes of the length
        entries = self._windows_of(size)[places]
        # Keys of different lengths are copied from so far before them that all end at the same place.
        places -= longest
        texts = self._windows_of(longest)[places]
        if lengths.count(longest) < len(keys):
            texts = texts.view(_U1).reshape(-1, longest)[_masks(longest).take(of_keys, axis=0)]
        wanted = b"".join(keys)
        if texts.tobytes() == wanted and of_records.tobytes() == of_keys.astype(_U2).tobytes():
            return entries, _NONE, _NONE
        differ = np.frombuffer(texts, _U1) != np.frombuffer(wanted, _U1)
        differ = np.logical_or.reduceat(differ, np.cumsum(of_keys) - of_keys)
        differ |= of_records != of_keys
        wrong = differ.nonzero()[0]
        if not self._is_whole:
            return entries, wrong, _NONE
        # A key that had no place left is in a full bucket, whose last slot is taken.
        absent = (buckets[:, -1].take(wrong) == 0) & (same_tag.view(np.uint64)[:, 0].take(wrong) == 0)
        return entries, wrong[~absent], wrong[absent]

    def _windows_of(self, size: int) -> np.ndarray:
        """Every stretch of `size` bytes of the region as one item, the first one from the region's third byte."""
        windows = self._windows.get(size)
        if windows is None:
            windows = np.ndarray(len(self._bytes) - size - 1, f"V{size}", self._bytes, 2, (1,))
            self._windows[size] = windows
        return windows

    def _places(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Find the likely record of each hash.

        Returns the buckets, uint64 [n, 8]; which of their slots have its part of the hash, bool [n, 8]; one of these,
        uint64 [n]; and where in the region its record begins, in units of two bytes, int64 [n].
        """
        # All numbers are of one type: numpy takes longer to convert 50 of them than for three additions.
        counts, first_rows, first_halves = self._counts, self._first_rows, self._first_halves
        if len(counts) > 1:
            shards = (hashes & self._shard_mask).view(np.int64)
            counts, first_rows, first_halves = counts.take(shards), first_rows.take(shards), first_halves.take(shards)
        rows = _buckets_of(hashes, counts)
        rows += first_rows
        buckets = self._buckets.take(rows.view(np.int64), axis=0)
        same_tag = buckets.view(_U2)[:, 3::4] == _tags(hashes)[:, None]
        slots = buckets[same_tag]
        if len(slots) != len(hashes):  # Some have no such slot, or two.
            slots = buckets.take(same_tag.argmax(axis=1) + np.arange(0, buckets.size, _SLOTS))
        halves = slots & _LOWER
        halves += first_halves
        return buckets, same_tag, slots, halves.view(np.int64)

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


MAX_DELTAS = 64
_SLOTS_PER_ENTRY = 8
_MIN_SLOTS = 64


def slot_width(deltas: int) -> int:
    """The bytes of a filter's slot, which has a bit for each delta: 1, 2, 4 or 8."""
    return next(width for width in (1, 2, 4, 8) if deltas <= width * 8)


def write_hashes(folder: Path, hashes: np.ndarray) -> ShardInfo:
    path = folder / HASHES_FILE
    np.sort(hashes).astype("<u8").tofile(path)
    sync(path)
    return ShardInfo(path.name, len(hashes), path.stat().st_size, file_checksum(path))


def write_filter(layout: StoreLayout, version: int, deltas: list[SegmentInfo]) -> ShardInfo:
    """Write the filter over all delta segments (oldest first) of a version; its name holds its checksum."""
    assert 0 < len(deltas) <= MAX_DELTAS
    width = slot_width(len(deltas))
    entries = sum(segment.entries for segment in deltas)
    slots = _MIN_SLOTS
    while slots < entries * _SLOTS_PER_ENTRY:
        slots *= 2
    table = np.zeros(slots, f"<u{width}")
    for bit, segment in enumerate(deltas):
        folder = layout.segment(segment.id) if layout.has_segment(segment.id) else layout.partial_segment(segment.id)
        hashes = np.fromfile(folder / HASHES_FILE, "<u8")
        places = hashes & np.uint64(slots - 1)
        table[places] |= table.dtype.type(1 << bit)
    content = bytes([width, 0, 0, 0, 0, 0, 0, 0]) + table.tobytes()
    checksum = xxhash.xxh3_128_hexdigest(content)
    path = layout.filter(f"{version:08d}-{checksum}.bin")
    write_durably(path, content)
    return ShardInfo(path.name, entries, len(content), checksum)
