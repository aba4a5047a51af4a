"""The filter of a version: it tells which delta segments may hold a key, so that most reads touch the base alone.

A table of 2**n slots, one bit for each delta; a key's slot is the low bits of its hash. With eight or more slots per
delta entry, at most one in eight reads of keys that no delta holds looks into a delta in vain. The file is mapped, so
that all readers of a machine share it. Format: eight bytes, the first is the slot width in bytes (1, 2, 4 or 8); then
the slots, little-endian.
"""

from pathlib import Path

import numpy as np
import xxhash

from forecache.base.files import sync, write_durably
from forecache.kit.versioned.verify import file_checksum
from forecache.serve.store.layout import HASHES_FILE, StoreLayout
from forecache.serve.store.manifest import SegmentInfo, ShardInfo

MAX_DELTAS = 64
_SLOTS_PER_ENTRY = 8
_MIN_SLOTS = 64


def slot_width(deltas: int) -> int:
    """The bytes of a filter's slot, which has a bit for each delta: 1, 2, 4 or 8."""
    return next(width for width in (1, 2, 4, 8) if deltas <= width * 8)


def write_hashes(folder: Path, hashes: np.ndarray) -> ShardInfo:
    """Write the sorted key hashes of a delta segment."""
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
        hashes = np.fromfile(layout.segment(segment.id) / HASHES_FILE, "<u8")
        places = hashes & np.uint64(slots - 1)
        table[places] |= table.dtype.type(1 << bit)
    content = bytes([width, 0, 0, 0, 0, 0, 0, 0]) + table.tobytes()
    checksum = xxhash.xxh3_128_hexdigest(content)
    path = layout.filter(f"{version:08d}-{checksum}.bin")
    write_durably(path, content)
    return ShardInfo(path.name, entries, len(content), checksum)
