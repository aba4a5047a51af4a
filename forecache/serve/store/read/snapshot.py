"""A snapshot: one version of the store, open for reading.

An entry, as a segment of a version of the layout "json" holds it, is the JSON object of the served fields, compact, in
the order of the manifest's `fields`, ready to be copied into an answer:

    {"churn_probability":0.83,"risk_segment":"high"}

A row whose provenance differs from the version's (a prediction carried forward) has a second line, the id of its
provenance in the manifest's `provenances`:

    {"churn_probability":0.83,"risk_segment":"high"}\\n1f09a2c47d3be085

JSON text holds no raw line feed, so `entry.partition(b"\\n")` splits it without parsing (see `split_entry`). An empty
entry in a delta segment is a tombstone: the key has left.

In a version of the layout "packed" an entry is the float32 numbers of all fields, little-endian, in the order of the
manifest's `columns`, and nothing else. `matrix` reads many at once.
"""

import mmap
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from forecache.base.errors import ConflictError, DamagedError, InputError
from forecache.base.folders import Folder
from forecache.serve.store.integrity import check_sizes, verify_filter, verify_segment
from forecache.serve.store.layout import StoreLayout
from forecache.serve.store.manifest import Manifest
from forecache.serve.store.read.lookup import Get, GetMany, entry_readers, layered_readers
from forecache.serve.store.segment import mapping as segments
from forecache.serve.store.segment.ranged import RangedSegment

if TYPE_CHECKING:
    import numpy as np


def merge_rows(base: Iterator[tuple[bytes, bytes]], overlay: Mapping[bytes, bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Merge sorted (key, entry) pairs with newer ones of `overlay`, in which an empty entry removes its key; sorted."""
    newer = sorted(overlay.items(), reverse=True)
    for pair in base:
        while newer and newer[-1][0] <= pair[0]:
            first = newer.pop()
            if first[0] == pair[0]:
                pair = first
            elif first[1]:
                yield first
        if pair[1]:
            yield pair
    yield from (pair for pair in reversed(newer) if pair[1])


class Snapshot:
    """Reads of one version; safe for threads and, once opened, for forked processes.

    Attributes:
        manifest: The manifest of the version.
        is_whole: Whether all segments are here.
        get: `get(key)` returns the JSON object of the served fields (of a packed version its numbers), or None. A bound
            function: keep it in a local variable in hot loops.
        get_entry: Like `get`, but with the row's provenance id if it has one of its own.
        get_entries: `get_entries(keys)` returns what `get_entry` would for each key, in their order.
    """

    __slots__ = (
        "__weakref__", "_handles", "_has_filter", "_inodes", "_layers", "_matrix", "_release",
        "get", "get_entries", "get_entry", "is_whole", "layout", "manifest",
    )  # fmt: skip

    get: Get
    get_entry: Get
    get_entries: GetMany

    def __init__(
        self,
        layout: StoreLayout,
        manifest: Manifest,
        *,
        lease: int | None = None,
        remote: Folder | None = None,
    ) -> None:
        """Open a version.

        Segments that are not here are read from the remote, if one is given.
        """
        self.layout = layout
        self.manifest = manifest
        self._handles: list[segments.SegmentHandle | RangedSegment] = []
        self.is_whole = True
        self._inodes: dict[Path, tuple[int, int]] = {}
        path = layout.manifest(manifest.version)
        with suppress(FileNotFoundError):  # a version is verified before its manifest is written
            self._inodes[path] = segments.inode_of(path)
        filter_map: mmap.mmap | None = None
        try:
            check_sizes(layout, manifest, has_all=remote is None)
            for segment in manifest.segments:
                if remote is not None and not layout.has_segment(segment.id):
                    self.is_whole = False
                    self._handles.append(RangedSegment(remote, layout, segment))
                    continue
                files = [shard.file for shard in segment.shards]
                handle = segments.acquire(layout.segment(segment.id), files, indexed=segment.kind == "base")
                self._handles.append(handle)
            if manifest.filter is not None and (remote is None or layout.filter(manifest.filter.file).exists()):
                path = layout.filter(manifest.filter.file)
                filter_map, self._inodes[path] = _map_filter(path, deltas=len(manifest.segments) - 1)
        except BaseException:
            _release_handles(self._handles, lease)
            raise
        self._layers: list[list[Any]] = [handle.transactions for handle in self._handles]
        index = self._handles[0].index
        assert index is not None, "the first segment is a base"
        columns = manifest.width if manifest.is_packed else 0
        self._has_filter = filter_map is not None
        if manifest.filter is not None and filter_map is None:
            readers = layered_readers(self._layers, columns=columns)
        else:
            readers = entry_readers(self._layers, index, filter_map, carried=manifest.carried > 0, columns=columns)
        self.get, self.get_entry, self.get_entries, self._matrix = readers
        self._release = weakref.finalize(self, _release_handles, self._handles, lease)

    def get_many(self, keys: Iterable[bytes]) -> list[bytes | None]:
        """The values of several keys, in their order; None where a key is missing."""
        return values_of(self.get_entries(list(keys)), self.manifest)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of `matrix`: those of the fields, and `<name>_0` and so on of a vector."""
        return self.manifest.columns

    def matrix(self, keys: Sequence[bytes]) -> "tuple[np.ndarray, np.ndarray]":
        """The rows of n keys of a packed version, in their order: (float32 [n, len(columns)], found bool [n]).

        The arrays are new; the row of a key that is not found is NaN.

        Raises:
            InputError: The version holds JSON.
        """
        if self._matrix is None:
            raise InputError(
                f"{self.manifest.pipeline} is published as JSON, which is no matrix.",
                remedy="Publish a feature view, and look up that one.",
            )
        return self._matrix(keys)

    def base_keys(self, shard: int) -> Iterator[bytes]:
        """The keys in one shard of the base, whether or not a delta has removed them since."""
        return self._layers[0][shard].cursor().iternext(keys=True, values=False)

    def base_items(self, shard: int) -> Iterator[tuple[bytes, bytes]]:
        """The (key, entry) pairs in one shard of the base, without the changes of deltas."""
        return self._layers[0][shard].cursor().iternext(keys=True, values=True)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every (key, entry) of the version, in no particular order."""
        for shard in range(len(self._layers[0]) if self._layers else 0):
            yield from self.shard_items(shard)

    def shard_items(self, shard: int) -> Iterator[tuple[bytes, bytes]]:
        """The (key, entry) pairs whose keys belong to one shard of the base, in their order, as `get` finds them."""
        return merge_rows(self.base_items(shard), self.overlay(shard))

    def overlay(self, shard: int) -> dict[bytes, bytes]:
        """Entries of the deltas by key, for one shard of the base; tombstones are empty entries."""
        key_hash, mask = xxhash.xxh3_64_intdigest, len(self._layers[0]) - 1
        return {
            key: entry
            for layer in self._layers[1:]
            for number, transaction in enumerate(layer)
            # The same bits of a key's hash choose the shard of every segment.
            if (number ^ shard) & mask & (len(layer) - 1) == 0
            for key, entry in transaction.cursor().iternext(keys=True, values=True)
            if key_hash(key) & mask == shard
        }

    def segment_items(self, number: int) -> Iterator[tuple[bytes, bytes]]:
        """Every (key, entry) of one segment, tombstones (empty entries) included; 0 is the base."""
        for transaction in self._layers[number]:
            yield from transaction.cursor().iternext(keys=True, values=True)

    def files(self) -> list[Path]:
        """The files that the snapshot maps."""
        return [path for handle in self._handles for path in handle.paths]

    @property
    def mapped_bytes(self) -> int:
        return self.manifest.size_bytes

    def warm(self) -> int:
        """Read the mapped files into the page cache and this process's page tables, and verify them; return bytes read.

        The first gets then wait neither for the disk nor for the kernel. Files that were verified for another open
        version are skipped, unless `discard_verification` was called since; so is what is read from a remote, by blocks
        that are verified when they are read.

        Raises:
            DamagedError: A file is not what was written.
            ConflictError: Files were replaced meanwhile.
        """
        total, paths = 0, []
        for segment, handle in zip(self.manifest.segments, self._handles, strict=True):
            if handle.verified:
                continue
            total += verify_segment(self.layout, segment)
            handle.verified = True
            paths += handle.paths
        if self._has_filter and self.manifest.filter is not None:
            total += verify_filter(self.layout, self.manifest)
            paths.append(self.layout.filter(self.manifest.filter.file))
        segments.populate_page_tables(paths)
        if self.is_replaced():
            raise ConflictError(
                f"The files of version {self.manifest.version} of {self.manifest.pipeline} are being replaced.",
                remedy="Try again.",
            )
        return total

    def discard_verification(self) -> None:
        """Let `warm` read and verify the files again, also for other versions that share them."""
        for handle in self._handles:
            handle.verified = False

    def is_replaced(self) -> bool:
        """Return whether a file or the manifest was replaced since it was opened; a missing file is not replaced."""
        files = self._inodes.items()
        return any(handle.is_replaced() for handle in self._handles) or any(
            segments.is_other_file(*file) for file in files
        )

    def close(self) -> None:
        """Unmap the files and give up the lease; gets fail afterwards."""
        self._release()

    def __enter__(self) -> "Snapshot":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def values_of(entries: list[bytes | None], manifest: Manifest) -> list[bytes | None]:
    """The values of a version's entries, without the ids of provenances."""
    return [entry and split_entry(entry)[0] for entry in entries] if manifest.carried else entries


def split_entry(entry: bytes) -> tuple[bytes, str]:
    """(JSON object of an entry, id of the row's own provenance, "" if it is the version's)."""
    value, _, provenance = entry.partition(b"\n")
    return value, provenance.decode()


def _release_handles(handles: list[segments.SegmentHandle | RangedSegment], lease: int | None) -> None:
    while handles:
        handle = handles.pop()
        if isinstance(handle, RangedSegment):
            handle.close()
        else:
            segments.release(handle)
    if lease is not None:
        os.close(lease)


def _map_filter(path: Path, *, deltas: int) -> tuple[mmap.mmap, tuple[int, int]]:
    from forecache.serve.store.segment.index import slot_width

    with open(path, "rb") as file:
        found = os.fstat(file.fileno())
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if mapped[0] != slot_width(deltas):
        raise DamagedError(f"The filter {path} is damaged: it has slots of {mapped[0]} bytes for {deltas} deltas.")
    return mapped, (found.st_dev, found.st_ino)
