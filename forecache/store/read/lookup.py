"""From a key to its entry, through the segments of a version: closures over what they need, because reads are hot."""

import mmap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import xxhash

if TYPE_CHECKING:
    from forecache.store.segment.index import Index

# numpy is imported when a version is opened: what opens none, such as a command that lists versions, does without.

Get = Callable[[bytes], bytes | None]
GetMany = Callable[[Sequence[bytes]], list[bytes | None]]
GetDelta = Callable[[bytes, int], bytes | None]
"""The newest entry of a key in the deltas whose bits are set, a tombstone as an empty one; None where none has it."""
_NEWLINE = ord("\n")
"""A number is looked for ten times as fast as a bytes object of one byte."""
_FEW = 28
"""So many keys are found sooner one by one than together."""
_BLOCK = 1 << 16
"""Most keys that are looked up together, so that memory stays bounded."""


def entry_readers(
    layers: list[list[Any]], index: "Index", filter_map: mmap.mmap | None, *, carried: bool
) -> tuple[Get, Get, GetMany]:
    """The fastest readers of one value, of one entry and of many for the layers at hand, the oldest first.

    Args:
        layers: For each segment the read transactions of its shards.
        index: Of the base.
        filter_map: Where there are deltas.
        carried: Whether entries may have a second line.
    """
    from forecache.store.segment.filter import slot_width

    base_get = _layer_reader(layers[0])
    if len(layers) == 1:
        return _values(base_get) if carried else base_get, base_get, _many_reader(index, base_get, base_get, None, None)
    assert filter_map is not None, "a version with delta segments has a filter"
    # Behind eight bytes, bit i of a slot says that delta i may hold a key with that hash. Most slots are empty, so that
    # most reads touch the base alone.
    formats: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}
    slots = memoryview(filter_map)[8:].cast(formats[slot_width(len(layers) - 1)])
    slot_mask = len(slots) - 1
    gets = tuple(transaction.get for transaction in layers[0])
    key_hash, mask = xxhash.xxh3_64_intdigest, len(gets) - 1
    newest_first = [(1 << i, _layer_reader(layer)) for i, layer in reversed(list(enumerate(layers[1:])))]

    def get_delta(key: bytes, candidates: int) -> bytes | None:
        for bit, delta_get in newest_first:
            if candidates & bit:
                entry = delta_get(key)
                if entry is not None:
                    return entry
        return None

    def get_entry(key: bytes) -> bytes | None:
        digest = key_hash(key)
        candidates = slots[digest & slot_mask]
        if candidates:
            entry = get_delta(key, candidates)
            if entry is not None:
                return entry or None
        return gets[digest & mask](key)

    get_value = _values(get_entry)

    def get(key: bytes) -> bytes | None:
        # Most keys are in the base alone: for them, what the two functions do without calling them.
        digest = key_hash(key)
        if slots[digest & slot_mask]:
            return get_value(key)
        entry = gets[digest & mask](key)
        if entry is None or _NEWLINE not in entry:
            return entry
        return entry[: entry.index(b"\n")]

    return get if carried else get_entry, get_entry, _many_reader(index, base_get, get_entry, get_delta, slots)


def _layer_reader(layer: list[Any]) -> Get:
    if len(layer) == 1:
        return layer[0].get
    gets = tuple(transaction.get for transaction in layer)
    key_hash, mask = xxhash.xxh3_64_intdigest, len(layer) - 1

    def get(key: bytes) -> bytes | None:
        return gets[key_hash(key) & mask](key)

    return get


def _values(get_entry: Get) -> Get:
    def get(key: bytes) -> bytes | None:
        entry = get_entry(key)
        if entry is None or _NEWLINE not in entry:
            return entry
        return entry[: entry.index(b"\n")]

    return get


def _many_reader(
    index: "Index", base_get: Get, get: Get, get_delta: GetDelta | None, slots: memoryview | None
) -> GetMany:
    """A reader of many keys, through the base's index.

    Where the index does not lead to a key, and where a delta may hold it, keys are read one by one.

    Args:
        base_get: Reads the base alone.
        get: Reads all segments.
        get_delta: Reads the deltas alone; None where there are none.
        slots: Of the filter; None where there are no deltas.
    """
    import numpy as np

    from forecache.store.segment.index import key_hashes

    find = index.find
    table = None if slots is None else np.asarray(slots)
    slot_mask = np.uint64(0 if table is None else len(table) - 1)

    def get_many(keys: Sequence[bytes]) -> list[bytes | None]:
        if len(keys) <= _FEW:
            return list(map(get, keys))
        if len(keys) > _BLOCK:
            blocks = (keys[start : start + _BLOCK] for start in range(0, len(keys), _BLOCK))
            return [entry for block in blocks for entry in get_many(block)]
        hashes = key_hashes(keys)
        entries: list[bytes | None]
        entries, elsewhere = find(keys, hashes)
        for place in elsewhere:
            entries[place] = base_get(keys[place])
        if table is not None and get_delta is not None:
            candidates = table.take((hashes & slot_mask).view(np.int64))
            places = np.flatnonzero(candidates)
            for place, bits in zip(places.tolist(), candidates.take(places).tolist(), strict=True):
                entry = get_delta(keys[place], bits)
                if entry is not None:
                    entries[place] = entry or None
        return entries

    return get_many
