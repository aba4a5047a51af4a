"""A segment that is not on this machine: entries are found in LMDB's tree, of whose pages blocks are fetched.

In LMDB's data format 1 a page starts with a header of 16 bytes (flags at 10, the end of the node offsets at 12) and the
offsets of its nodes, in the order of their keys. A node is a header of eight bytes (two half-words of the data's size
or of a child's page number, flags or the rest of that number, the key's size), the key and the data; see struct
MDB_page, MDB_node and MDB_meta in LMDB's mdb.c.
"""

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from forecache.base.errors import CheckError, DamagedError, NotFoundError, UnavailableError
from forecache.base.folders import Folder
from forecache.kit.versioned.blocks import BLOCK_BYTES, BlockFile, fetch_wanted
from forecache.serve.store.layout import StoreLayout
from forecache.serve.store.manifest import SegmentInfo

if TYPE_CHECKING:
    import numpy as np

_HEADER = 16
_BRANCH, _BIG_DATA = 0x01, 0x01
_PAGE = struct.Struct("<10x HH")  # flags, end of the offsets
_NODE = struct.Struct("<HHHH")
_NODE_BYTES = _NODE.size
_NO_ROOT = (1 << 64) - 1
_Search = Generator[tuple[int, int], None, bytes | None]
"""A search yields each range of bytes that it is about to read, and returns the entry."""


class RangedShard:
    """One LMDB file of a segment; `get` as of a read transaction."""

    def __init__(self, file: BlockFile) -> None:
        self.file = file
        self._tree: tuple[int, int] | None = None  # page size, root

    def get(self, key: bytes) -> bytes | None:
        return run_searches([(self.file, self.search(key))])[0]

    def search(self, key: bytes) -> _Search:
        if self._tree is None:
            from forecache.serve.store.segment.index import newest_meta, page_size_of

            page_size = page_size_of(self.file.view(0, BLOCK_BYTES))
            yield 0, 2 * page_size
            self._tree = page_size, newest_meta(self.file.view(0, 2 * page_size))[1]
        page_size, number = self._tree
        if number == _NO_ROOT:
            return None
        while True:
            start = number * page_size
            yield start, start + page_size
            page = _Page(self.file.view(start, start + page_size))
            if page.is_branch:
                number = page.find_child(key)
                continue
            found = page.find_data(key)
            if found is None or isinstance(found, bytes):
                return found
            first, size = found
            start = first * page_size + _HEADER
            yield start, start + size
            return bytes(self.file.view(start, start + size))


class _Page:
    def __init__(self, content: memoryview) -> None:
        flags, lower = _PAGE.unpack_from(content)
        self.is_branch = bool(flags & _BRANCH)
        self._content, self._offsets = content, content[_HEADER:lower].cast("H")

    def _key_at(self, place: int) -> bytes:
        at = self._offsets[place]
        size = _NODE.unpack_from(self._content, at)[3]
        return bytes(self._content[at + _NODE_BYTES : at + _NODE_BYTES + size])

    def find_child(self, key: bytes) -> int:
        """The number of the page below a branch to which a key belongs."""
        # The first node of a branch has no key: it is less than all.
        place = bisect_right(range(len(self._offsets)), key, lo=1, key=self._key_at) - 1
        low, high, top, _ = _NODE.unpack_from(self._content, self._offsets[place])
        return int(low | high << 16 | top << 32)

    def find_data(self, key: bytes) -> bytes | tuple[int, int] | None:
        """The data of a key in a leaf, or the number of the first page that has it and its size; None: no such key."""
        offsets = self._offsets
        place = bisect_left(range(len(offsets)), key, key=self._key_at)
        if place == len(offsets) or self._key_at(place) != key:
            return None
        low, high, flags, key_size = _NODE.unpack_from(self._content, offsets[place])
        size, at = low | high << 16, offsets[place] + _NODE_BYTES + key_size
        if flags & _BIG_DATA:
            return int.from_bytes(self._content[at : at + 8], "little"), size
        return bytes(self._content[at : at + size])


def run_searches(searches: Sequence[tuple[BlockFile, _Search]]) -> list[bytes | None]:
    """Run searches in step, so that what all of them need next is fetched side by side; returns their results.

    Raises UnavailableError if a block cannot be fetched, DamagedError if it is not what was written.
    """
    found: list[bytes | None] = [None] * len(searches)
    running: list[tuple[int, tuple[int, int]]] = [(place, (0, BLOCK_BYTES)) for place in range(len(searches))]
    while running:
        wanted: dict[BlockFile, set[int]] = {}
        waiting = []
        for place, needed in running:
            file, search = searches[place]
            try:
                while not (missing := file.find_missing(*needed)):
                    needed = next(search)
            except StopIteration as end:
                found[place] = end.value
                continue
            wanted.setdefault(file, set()).update(missing)
            waiting.append((place, needed))
        _fetch(wanted)
        running = waiting
    return found


def _fetch(wanted: Mapping[BlockFile, set[int]]) -> None:
    try:
        fetch_wanted(wanted.items())
    except (CheckError, NotFoundError) as error:
        raise DamagedError(error.message, remedy="Try again; if it repeats, publish a full version.") from None
    except OSError as error:
        raise UnavailableError(
            f"Blocks of a version cannot be fetched: {type(error).__name__}: {error}.",
            remedy="Make sure that FORECACHE_STORE_REMOTE answers, and that this machine's disk is not full.",
        ) from error


class RangedSegment:
    """A segment in a remote, used as an open `SegmentHandle`; it is not kept from being removed there."""

    verified = True  # each block when it is first read

    def __init__(self, remote: Folder, layout: StoreLayout, segment: SegmentInfo) -> None:
        folder = layout.partial_segment(segment.id)
        folder.mkdir(exist_ok=True)
        self.paths: list[Path] = []
        self.transactions: list[RangedShard] = []
        try:
            for shard in segment.shards:
                name = f"{layout.name}/segments/{segment.id}/{shard.file}"
                whole = folder / shard.file  # fetched by a pull that has not ended
                path = whole if whole.exists() else folder / f"{shard.file}.part"
                file = BlockFile(remote, name, shard, path)
                self.transactions.append(RangedShard(file))
        except BaseException:
            self.close()
            raise
        self.index = RangedIndex(self.transactions)

    def is_replaced(self) -> bool:
        return False

    def close(self) -> None:
        for shard in self.transactions:
            shard.file.close()


class RangedIndex:
    """Finds many entries of a segment in a remote, with the methods of an `Index`."""

    def __init__(self, shards: Sequence[RangedShard]) -> None:
        self._shards = shards

    def find(self, keys: Sequence[bytes], hashes: "np.ndarray") -> tuple[list[bytes | None], list[int]]:
        mask = len(self._shards) - 1
        shards = [self._shards[digest & mask] for digest in hashes.tolist()]
        searches = [(shard.file, shard.search(key)) for shard, key in zip(shards, keys, strict=True)]
        return run_searches(searches), []

    def find_packed(
        self, keys: Sequence[bytes], hashes: "np.ndarray", size: int
    ) -> "tuple[np.ndarray, np.ndarray, np.ndarray]":
        import numpy as np

        found, _ = self.find(keys, hashes)
        entries = np.frombuffer(b"".join(entry or bytes(size) for entry in found), f"V{size}").copy()
        absent = [place for place, entry in enumerate(found) if entry is None]
        return entries, np.empty(0, np.int64), np.array(absent, np.int64)
