"""Reading many keys of a version together."""

from collections.abc import Sequence

import numpy as np

from forecache.store.read.lookup import Get, GetDelta, GetMany
from forecache.store.segment.index import Index, key_hashes

_FEW = 28
"""So many keys are found sooner one by one than together."""
_BLOCK = 1 << 16
"""Most keys that are looked up together, so that memory stays bounded."""


def many_reader(index: Index, base_get: Get, get: Get, get_delta: GetDelta | None, slots: memoryview | None) -> GetMany:
    """Reads through the base's index, and one by one where a delta may hold the key or the index does not lead to it.

    Args:
        base_get: Reads the base alone.
        get: Reads all segments.
        get_delta: Reads the deltas alone; None where there are none.
        slots: Of the filter; None where there are no deltas.
    """
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
