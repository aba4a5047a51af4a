"""The file format of tiles: those of a stream's live views up to a row of its table.

After a magic of eight bytes come parts, each with entries of one view: a head of four little-endian int64 (number of
the view, number of entries, bytes of their keys, bytes of their tiles), the sizes of the keys and of the tiles as
uint32, then keys and tiles. An entry of a later part replaces an earlier one of its key. After the parts follow a JSON
object, its size (int64), and 16 bytes: XXH3 (128 bits, https://xxhash.com) of everything before them.
"""

import json
import mmap
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from forecache.base.errors import DamagedError
from forecache.stream.table.rows import TableCursor

_MAGIC = b"FCTILES1"
_HEAD, _SIZE, _HASH_BYTES = struct.Struct("<4q"), struct.Struct("<q"), 16
_SYNC_EVERY = 16 << 20
Part = tuple[str, list[bytes], list[bytes]]
"""A view, keys, and the tiles of each."""


@dataclass(frozen=True)
class TileFileInfo:
    """Describes the tiles of a file."""

    declaration: str  # hash of the declaration; tiles of another one do not fit the stream
    mark: TableCursor  # of the last row of the table whose event they include
    rows: int  # number of rows of the table up to the cursor
    complete_from: Mapping[str, int]  # by view, the first day (since 1970) from which on no tile is missing


class TileWriter:
    """Writes an empty file of tiles of some views."""

    def __init__(self, path: Path, views: Sequence[str]) -> None:
        self._numbers = {name: number for number, name in enumerate(views)}
        self._hash, self._unsynced = xxhash.xxh3_128(), 0
        self._file = path.open("wb", buffering=0)
        self._write(_MAGIC)

    def add(self, view: str, keys: Sequence[bytes], tiles: Sequence[bytes]) -> None:
        """Write a part, preferably of some thousand keys."""
        key_sizes, tile_sizes = (np.fromiter(map(len, each), "<u4", len(each)) for each in (keys, tiles))
        head = _HEAD.pack(self._numbers[view], len(keys), int(key_sizes.sum()), int(tile_sizes.sum()))
        self._write(b"".join([head, key_sizes.tobytes(), tile_sizes.tobytes(), *keys, *tiles]))

    def end(self, of: TileFileInfo) -> None:
        """Write the description and the hash."""
        about = json.dumps({**asdict(of), "views": list(self._numbers)}).encode()
        self._write(about + _SIZE.pack(len(about)))
        self._write(self._hash.digest())

    def close(self) -> None:
        self._file.close()

    def _write(self, content: bytes) -> None:
        self._hash.update(content)
        rest = memoryview(content)
        while rest:
            done = self._file.write(rest)
            rest, self._unsynced = rest[done:], self._unsynced + done
        if self._unsynced > _SYNC_EVERY:
            # In small steps: one large flush would delay the stream's own commits.
            self._unsynced = 0
            os.fdatasync(self._file.fileno())


class TileFile:
    """Reads a file of tiles after checking its hash; `of` describes them. DamagedError if the hash is another."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as source:
            size = os.fstat(source.fileno()).st_size
            mapped = mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        content = memoryview(mapped)
        whole = content[: max(0, size - _HASH_BYTES)]
        if whole[: len(_MAGIC)] != _MAGIC or xxhash.xxh3_128_digest(whole) != content[len(whole) :]:
            raise DamagedError("its bytes are not those that were written", remedy="It is made anew.")
        (about_bytes,) = _SIZE.unpack(whole[-_SIZE.size :])
        end = len(whole) - _SIZE.size - about_bytes
        about: dict[str, Any] = json.loads(bytes(whole[end : -_SIZE.size]))
        self._views, self._parts = about["views"], whole[len(_MAGIC) : end]
        self.of = TileFileInfo(
            about["declaration"], TableCursor(**about["mark"]), about["rows"], about["complete_from"]
        )

    def parts(self) -> Iterator[Part]:
        """Yield all entries in order; the last one of a key counts."""
        rest = self._parts
        while rest:
            view, count, key_bytes, tile_bytes = _HEAD.unpack(rest[: _HEAD.size])
            rest = rest[_HEAD.size :]
            sizes = np.frombuffer(rest, "<u4", 2 * count)
            rest = rest[8 * count :]
            keys = _split_bytes(bytes(rest[:key_bytes]), sizes[:count])
            rest = rest[key_bytes:]
            yield self._views[view], keys, _split_bytes(bytes(rest[:tile_bytes]), sizes[count:])
            rest = rest[tile_bytes:]


def _split_bytes(content: bytes, sizes: Any) -> list[bytes]:
    bounds = [0, *np.cumsum(sizes, dtype=np.int64).tolist()]
    return [content[start:end] for start, end in pairwise(bounds)]
