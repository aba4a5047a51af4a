"""Reading a pending version back through the reader's own code, for the comparison with its source."""

import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar, cast

from forecache.serve.store import content_hash as hashing
from forecache.serve.store.read.snapshot import Snapshot

_BLOCK_ROWS, _PAUSE_S = 1_000, 1e-4
_EVERY = 32
Row = TypeVar("Row")


def read_back(snapshot: Snapshot, shard: int, *, paced: bool = False) -> tuple[int, int]:
    """(rows, content sum) of a base shard, read by the reader's code; the version has no deltas.

    Every key of LMDB's pages is looked up through the index, and every n-th once more through LMDB's tree; an entry
    counts only if both are equal.

    Args:
        paced: As in `row_blocks`.
    """
    rows = total = 0
    for keys in row_blocks(snapshot.base_keys(shard), paced=paced):
        entries = _entries(snapshot, keys)
        for place in range(0, len(keys), _EVERY):
            if snapshot.get_entry(keys[place]) != entries[place]:
                entries[place] = None
        rows += len(keys) - entries.count(None)
        total = hashing.add(total, hashing.content_sum(present_entries(keys, entries)))
    return rows, total


def _entries(snapshot: Snapshot, keys: list[bytes]) -> list[bytes | None]:
    """The entries of some keys; of a packed version through `matrix`, as its readers do."""
    if not snapshot.manifest.is_packed:
        return snapshot.get_entries(keys)
    rows, found = snapshot.matrix(keys)
    content, size = rows.tobytes(), rows.shape[1] * rows.itemsize
    starts = range(0, len(content), size)
    return [content[at : at + size] if there else None for at, there in zip(starts, found.tolist(), strict=True)]


def present_entries(keys: list[bytes], entries: list[bytes | None]) -> Iterable[tuple[bytes, bytes]]:
    """The (key, entry) pairs whose entry is not None."""
    if None not in entries:
        return zip(keys, cast("list[bytes]", entries), strict=True)
    return [(key, entry) for key, entry in zip(keys, entries, strict=True) if entry is not None]


def row_blocks(items: Iterator[Row], *, paced: bool) -> Iterator[list[Row]]:
    """The rows in small blocks, so that memory is reused; if `paced`, with a short sleep after each.

    Even a process of low priority keeps a core for a time slice of some milliseconds, for which a reader on the same
    core waits. A sleeping process releases it at once.
    """
    while block := list(islice(items, _BLOCK_ROWS)):
        yield block
        if paced:
            time.sleep(_PAUSE_S)
