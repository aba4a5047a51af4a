"""Reading many keys of a version at once, through the base's index.

Keys that the index does not find, and those that a delta may hold, are read one by one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from forecache.serve.store.segment.index import Index

# numpy is imported when a version is opened, so that a command that only lists versions does not load it.

Get = Callable[[bytes], bytes | None]
GetMany = Callable[[Sequence[bytes]], list[bytes | None]]
GetMatrix = Callable[[Sequence[bytes]], "tuple[np.ndarray, np.ndarray]"]
"""(float32 [n, columns], found bool [n]) of n keys; unknown ones are rows of NaN."""
GetDelta = Callable[[bytes, int], bytes | None]
"""The newest entry of a key in the deltas whose bits are set, empty for a tombstone; None if none has it."""
_GetNewer = Callable[[Sequence[bytes], "np.ndarray"], list[tuple[int, bytes]]]

_FEW = 28
"""Up to so many keys are found faster one by one."""
_FEW_PACKED = 10
"""The same where entries are packed."""
_BLOCK = 1 << 16
"""Most keys that are looked up together, so that memory stays bounded."""


@dataclass(frozen=True)
class SegmentReaders:
    """Readers of the segments of a version.

    Attributes:
        index: Of the base.
        base_get: Reads the base alone.
        get: Reads all segments.
        get_delta: Reads the deltas alone; None without deltas.
        slots: Of the filter; None without deltas.
    """

    index: "Index"
    base_get: Get
    get: Get
    get_delta: GetDelta | None
    slots: memoryview | None


def many_reader(layers: SegmentReaders) -> GetMany:
    """A reader of the entries of many keys."""
    from forecache.serve.store.segment.index import key_hashes

    find, get, base_get, newer = layers.index.find, layers.get, layers.base_get, _newer_reader(layers)

    def get_many(keys: Sequence[bytes]) -> list[bytes | None]:
        if len(keys) <= _FEW:
            return list(map(get, keys))
        if len(keys) > _BLOCK:
            return [entry for block in _blocks(keys) for entry in get_many(block)]
        hashes = key_hashes(keys)
        entries: list[bytes | None]
        entries, elsewhere = find(keys, hashes)
        for place in elsewhere:
            entries[place] = base_get(keys[place])
        if newer is not None:
            for place, entry in newer(keys, hashes):
                entries[place] = entry or None
        return entries

    return get_many


def matrix_reader(layers: SegmentReaders, columns: int) -> GetMatrix:
    """A reader of the packed entries of many keys, of so many numbers each."""
    import numpy as np

    from forecache.serve.store.packed import FLOAT, FLOAT_BYTES, matrix_of
    from forecache.serve.store.segment.index import key_hashes

    find, get, base_get, newer = layers.index.find_packed, layers.get, layers.base_get, _newer_reader(layers)
    size, number = columns * FLOAT_BYTES, np.dtype(FLOAT)

    def matrix(keys: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        if len(keys) <= _FEW_PACKED:
            return matrix_of(list(map(get, keys)), columns)
        if len(keys) > _BLOCK:
            parts = [matrix(block) for block in _blocks(keys)]
            return np.concatenate([rows for rows, _ in parts]), np.concatenate([found for _, found in parts])
        hashes = key_hashes(keys)
        entries, elsewhere, absent = find(keys, hashes, size)
        rows, found = entries.view(number).reshape(-1, columns), np.empty(len(keys), np.bool_)
        found.fill(True)
        if len(absent):
            found[absent], rows[absent] = False, np.nan
        one_by_one = [(place, base_get(keys[place]) or b"") for place in elsewhere.tolist()]
        if newer is not None:
            one_by_one += newer(keys, hashes)
        for place, entry in one_by_one:
            found[place] = bool(entry)
            rows[place] = np.frombuffer(entry, FLOAT) if entry else np.nan
        return rows, found

    return matrix


def _blocks(keys: Sequence[bytes]) -> list[Sequence[bytes]]:
    return [keys[start : start + _BLOCK] for start in range(0, len(keys), _BLOCK)]


def _newer_reader(layers: SegmentReaders) -> _GetNewer | None:
    """A reader of the entries of many keys in the deltas, with their places; None without deltas."""
    import numpy as np

    if layers.get_delta is None or layers.slots is None:
        return None
    get_delta, table = layers.get_delta, np.asarray(layers.slots)
    slot_mask = np.uint64(len(table) - 1)

    def newer(keys: Sequence[bytes], hashes: np.ndarray) -> list[tuple[int, bytes]]:
        candidates = table.take((hashes & slot_mask).view(np.int64))
        places = np.flatnonzero(candidates)
        asked = zip(places.tolist(), candidates.take(places).tolist(), strict=True)
        entries = [(place, get_delta(keys[place], bits)) for place, bits in asked]
        return [(place, entry) for place, entry in entries if entry is not None]

    return newer
