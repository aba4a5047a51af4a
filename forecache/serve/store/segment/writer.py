"""Writing of a segment's LMDB files from keys and entries."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.base.errors import InputError
from forecache.base.files import sync
from forecache.base.hashes import TextWords
from forecache.kit.versioned.blocks import append_block_sums
from forecache.kit.versioned.verify import file_checksum
from forecache.serve.store.manifest import ShardInfo
from forecache.serve.store.segment.index import append_index, key_hashes

SHARD_ROWS = 400_000  # rows of a shard that is neither too large to sort in memory nor so small that opening it costs

SHARD_VALUES = 2_000_000  # items of the longest lists of a shard, about 100 MB of JSON

_MAX_SHARDS = 256
PAGE = 4096
_PUT_ROWS = 1 << 14
_NAMED = 5


def num_shards(rows: int, values: int = 0) -> int:
    """A power of two, so that a key's shard is a mask of its hash; `values` are the items of the longest lists."""
    shards = 1
    while (shards * SHARD_ROWS < rows or shards * SHARD_VALUES < values) and shards < _MAX_SHARDS:
        shards *= 2
    return shards


def suits_num_shards(shards: int, rows: int, values: int) -> bool:
    """Return whether a base of so many rows may keep its number of shards, to be comparable with the one before."""
    wanted = num_shards(rows, values)
    return shards in (wanted // 2, wanted, wanted * 2)


def write_shard(path: Path, keys: pa.Array, entries: pa.Array, *, indexed: bool = False) -> ShardInfo:
    """Write one LMDB file from unsorted rows (binary, no nulls); raises InputError if a key occurs twice."""
    order = sorted_order(keys)
    if not np.array_equal(order, np.arange(len(order))):
        keys, entries = keys.take(order), entries.take(order)
    refuse_duplicates(keys)
    # LMDB needs the size in advance: entries, keys and headers, half as much again for pages not quite full, and as
    # a page for each entry that is too long to share one.
    size = keys.nbytes + entries.nbytes + 32 * len(keys)
    long_entries = pc.sum(pc.greater(pc.binary_length(entries), 1000)).as_py() or 0
    blocks = (
        (keys.slice(start, _PUT_ROWS).to_pylist(), entries.slice(start, _PUT_ROWS).to_pylist())
        for start in range(0, len(keys), _PUT_ROWS)
    )
    return write_sorted(path, blocks, most_bytes=size * 3 // 2 + long_entries * 3 * PAGE, indexed=indexed)


def write_sorted(
    path: Path, blocks: Iterable[tuple[Sequence[bytes], Sequence[bytes]]], *, most_bytes: int, indexed: bool
) -> ShardInfo:
    """Write one LMDB file from blocks of keys and entries in the keys' order; its pages need `most_bytes` or less."""
    map_size = (most_bytes + (1 << 20)) // PAGE * PAGE
    environment = lmdb.open(
        str(path), subdir=False, lock=False, sync=False, metasync=False, meminit=False, map_size=map_size
    )
    rows, hashes = 0, [np.empty(0, np.uint64)]
    try:
        with environment.begin(write=True) as transaction, transaction.cursor() as cursor:
            for keys, entries in blocks:
                if indexed:
                    hashes.append(key_hashes(keys))
                added = cursor.putmulti(zip(keys, entries, strict=True), append=True)[1]
                assert added == len(keys), f"LMDB took {added} of {len(keys)} rows"
                rows += added
    finally:
        environment.close()
    if indexed:
        append_index(path, np.concatenate(hashes))
    sums = append_block_sums(path)
    sync(path)
    return ShardInfo(path.name, rows, path.stat().st_size, file_checksum(path), sums)


def sorted_order(keys: pa.Array) -> pa.Array:
    """Positions that sort keys by their bytes: as numbers, many times faster, if their first different bytes differ."""
    if len(keys):
        extremes = pc.min_max(keys).as_py()
        common = len(os.path.commonprefix([extremes["min"], extremes["max"]]))
        numbers = TextWords.from_column(keys).big_endian(common)
        order = np.argsort(numbers)
        in_order = numbers[order]
        if not (in_order[1:] == in_order[:-1]).any():
            return pa.array(order)
    return pc.sort_indices(keys)


def refuse_duplicates(keys: pa.Array) -> None:
    if len(keys) < 2:
        return
    same = pc.equal(keys[1:], keys[:-1])
    if pc.any(same).as_py():
        twice = pc.unique(keys[1:].filter(same))
        listed = ", ".join(repr(key.decode(errors="replace")) for key in twice[:_NAMED].to_pylist())
        raise InputError(
            f"{len(twice)} keys occur more than once in what is to be published, such as {listed}.",
            remedy="Remove the duplicate rows from the table and publish again.",
        )
