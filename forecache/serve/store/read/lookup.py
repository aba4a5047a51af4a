"""Look-up of a key's entry in the segments of a version: closures over local variables, because reads are hot."""

import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import xxhash

from forecache.serve.store.read.batch_get import (
    Get,
    GetDelta,
    GetMany,
    GetMatrix,
    SegmentReaders,
    many_reader,
    matrix_reader,
)

if TYPE_CHECKING:
    from forecache.serve.store.segment.index import Index

# numpy is imported when a version is opened, so that a command that only lists versions does not load it.

_NEWLINE = ord("\n")
"""As a number: `in` finds it ten times as fast as a bytes object of one byte."""


@dataclass(frozen=True)
class VersionReaders:
    """The fastest readers for given segments: of a value, of an entry, of many, and of a matrix if it is packed."""

    get: Get
    get_entry: Get
    get_entries: GetMany
    matrix: GetMatrix | None


def entry_readers(
    layers: list[list[Any]], index: "Index", filter_map: mmap.mmap | None, *, carried: bool, columns: int
) -> VersionReaders:
    """Readers of a version.

    Args:
        layers: For each segment the read transactions of its shards, the oldest first.
        index: Of the base.
        filter_map: Mapping of the filter; None without deltas.
        carried: Whether entries may have a second line.
        columns: Numbers of a packed entry; 0: entries are JSON.
    """

    def make_readers(
        get: Get, get_entry: Get, get_delta: GetDelta | None = None, slots: memoryview | None = None
    ) -> VersionReaders:
        these = SegmentReaders(index, base_get, get_entry, get_delta, slots)
        return VersionReaders(get, get_entry, many_reader(these), matrix_reader(these, columns) if columns else None)

    from forecache.serve.store.segment.filter import slot_width

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

    return make_readers(get if carried else get_entry, get_entry, get_delta, slots)


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
