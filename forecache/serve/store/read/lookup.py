"""Look-up of entries in the segments of a version: closures over local variables, because reads are hot.

Many keys are found through the base's index; those that it does not find, and those that a delta may hold, one by one.
"""

import mmap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import xxhash

from forecache.serve.store.segment.ranged import RangedIndex, RangedShard, run_searches

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

_FEW = 28  # up to so many keys are found faster one by one
_FEW_PACKED = 10  # the same where entries are packed
_BLOCK = 1 << 16  # most keys that are looked up together, so that memory stays bounded


def _many_reader(find: Any, base_get: Get, get: Get, newer: _GetNewer | None, few: int) -> GetMany:
    from forecache.serve.store.segment.index import key_hashes

    def get_many(keys: Sequence[bytes]) -> list[bytes | None]:
        if len(keys) <= few:
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


def _matrix_reader(find: Any, base_get: Get, get: Get, newer: _GetNewer | None, columns: int, few: int) -> GetMatrix:
    import numpy as np

    from forecache.serve.store.segment.index import key_hashes
    from forecache.serve.store.values import FLOAT, FLOAT_BYTES, matrix_of

    size, number = columns * FLOAT_BYTES, np.dtype(FLOAT)

    def matrix(keys: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        if len(keys) <= few:
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


def _newer_reader(get_delta: GetDelta, slots: memoryview, far: list[tuple[int, list[RangedShard]]]) -> _GetNewer:
    """A reader of the entries of many keys in the deltas, with their places, by the filter's slots.

    `far` are the deltas in a remote, with their bits: what is searched in them is fetched for all keys together.
    """
    import numpy as np

    table, slot_mask = np.asarray(slots), np.uint64(len(slots) - 1)

    def newer(keys: Sequence[bytes], hashes: np.ndarray) -> list[tuple[int, bytes]]:
        candidates = table.take((hashes & slot_mask).view(np.int64))
        places = np.flatnonzero(candidates)
        asked = list(zip(places.tolist(), candidates.take(places).tolist(), strict=True))
        if far:
            wanted = [(layer, place) for place, bits in asked for bit, layer in far if bits & bit]
            shards = [(layer[int(hashes[place]) & (len(layer) - 1)], keys[place]) for layer, place in wanted]
            run_searches([(shard.file, shard.search(key)) for shard, key in shards])
        entries = [(place, get_delta(keys[place], bits)) for place, bits in asked]
        return [(place, entry) for place, entry in entries if entry is not None]

    return newer


_NEWLINE = ord("\n")  # as a number: `in` finds it ten times as fast as a bytes object of one byte


def entry_readers(
    layers: list[list[Any]], index: "Index | RangedIndex", filter_map: mmap.mmap | None, *, carried: bool, columns: int
) -> tuple[Get, Get, GetMany, GetMatrix | None]:
    """The fastest readers of a version: of a value, an entry, many entries and, if it is packed, a matrix.

    `layers` are for each segment the read transactions of its shards, the oldest first. With `carried`, entries may
    have a second line; `columns` are the numbers of a packed entry, 0 for JSON.
    """

    def make_readers(
        get: Get, get_entry: Get, newer: _GetNewer | None = None
    ) -> tuple[Get, Get, GetMany, GetMatrix | None]:
        matrix = _matrix_reader(index.find_packed, base_get, get_entry, newer, columns, few_packed) if columns else None
        return get, get_entry, _many_reader(index.find, base_get, get_entry, newer, few), matrix

    from forecache.serve.store.segment.index import slot_width

    # Of a segment in a remote the blocks that several keys need are fetched side by side.
    few, few_packed = (1, 1) if isinstance(index, RangedIndex) else (_FEW, _FEW_PACKED)
    base_get = _layer_reader(layers[0])
    if len(layers) == 1:
        return make_readers(_value_reader(base_get) if carried else base_get, base_get)
    assert filter_map is not None, "a version with delta segments has a filter"
    # After eight bytes, bit i of a slot is set if delta i may hold a key with that hash. Most slots are empty, so that
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

    get_value = _value_reader(get_entry)

    def get(key: bytes) -> bytes | None:
        # Most keys are in the base alone: for them, the two functions are inlined here.
        digest = key_hash(key)
        if slots[digest & slot_mask]:
            return get_value(key)
        entry = gets[digest & mask](key)
        if entry is None or _NEWLINE not in entry:
            return entry
        return entry[: entry.index(b"\n")]

    far = [(1 << i, layer) for i, layer in enumerate(layers[1:]) if isinstance(layer[0], RangedShard)]
    return make_readers(get if carried else get_entry, get_entry, _newer_reader(get_delta, slots, far))


def _layer_reader(layer: list[Any]) -> Get:
    if len(layer) == 1:
        return layer[0].get
    gets = tuple(transaction.get for transaction in layer)
    key_hash, mask = xxhash.xxh3_64_intdigest, len(layer) - 1

    def get(key: bytes) -> bytes | None:
        return gets[key_hash(key) & mask](key)

    return get


def _value_reader(get_entry: Get) -> Get:
    def get(key: bytes) -> bytes | None:
        entry = get_entry(key)
        if entry is None or _NEWLINE not in entry:
            return entry
        return entry[: entry.index(b"\n")]

    return get


def layered_readers(layers: Sequence[list[Any]], *, columns: int) -> tuple[Get, Get, GetMany, GetMatrix | None]:
    """Readers as of `entry_readers`, of a version whose filter is not here, by a look into all segments at once.

    The filter may be larger than all that is read. The searches of all keys in all segments take as many requests, one
    after the other, as a tree is deep.
    """

    def get_entries(keys: Sequence[bytes]) -> list[bytes | None]:
        hashes = list(map(xxhash.xxh3_64_intdigest, keys))
        found: list[list[bytes | None]] = []
        searches = []
        for layer in reversed(layers):
            shards = [layer[digest & (len(layer) - 1)] for digest in hashes]
            if isinstance(layer[0], RangedShard):
                searches += [(shard.file, shard.search(key)) for shard, key in zip(shards, keys, strict=True)]
                found.append([])
            else:
                found.append([shard.get(key) for shard, key in zip(shards, keys, strict=True)])
        results = run_searches(searches)
        for entries in found:
            if not entries:
                entries += results[: len(keys)]
                del results[: len(keys)]
        return [next((entry for entry in each if entry is not None), None) or None for each in zip(*found, strict=True)]

    def get_entry(key: bytes) -> bytes | None:
        return get_entries([key])[0]

    def matrix(keys: Sequence[bytes]) -> "tuple[np.ndarray, np.ndarray]":
        from forecache.serve.store.values import matrix_of

        return matrix_of(get_entries(keys), columns)

    return _value_reader(get_entry), get_entry, get_entries, matrix if columns else None
