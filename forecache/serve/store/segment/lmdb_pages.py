"""Offsets of the entries of an LMDB file, by a walk over its pages, all pages of a level at once.

LMDB's data format 1, in which a leaf node is a header of eight bytes (half-words: the two of the data's size, flags,
the key's size), the key and the data; see struct MDB_page, MDB_node and MDB_meta in LMDB's mdb.c.
"""

import struct
from pathlib import Path

import numpy as np

_MAGIC, _FORMAT = 0xBEEFC0DE, 1
_META = struct.Struct("<16x II 16x I")  # magic, format, page size
_ROOT = struct.Struct("<128x QQQ")  # root of the main tree, last page, transaction
_HEADER, _FLAGS, _LOWER_AT = 16, 10, 12
_BRANCH = 0x01
_KEY_SIZE = 6
_NO_ROOT = (1 << 64) - 1


def pages_size(content: bytes | memoryview) -> int:
    """Bytes of the pages of an LMDB file that starts with `content` (two pages or more)."""
    page_size, _, last = _newest_meta(content)
    return (last + 1) * page_size


def leaf_records(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(offsets of the entries' records in the file, their lengths in bytes), in the keys' order, int64 [n].

    A record is the key's length (two bytes, little-endian), the key and its data. Its length is 0 where the data is
    too long for a page and lies elsewhere.
    """
    halves = np.memmap(path, "<u2", "r")
    page_size, root, _ = _newest_meta(halves.data.cast("B"))
    if root == _NO_ROOT:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    pages = np.array([root], np.int64)
    while True:
        starts = pages * (page_size // 2)
        counts = (halves[starts + _LOWER_AT // 2].astype(np.int64) - _HEADER) // 2
        owners = np.repeat(starts, counts)
        numbers = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
        nodes = owners + halves[owners + _HEADER // 2 + numbers] // 2
        low, high, flags = (halves[nodes + word].astype(np.int64) for word in range(3))
        if not halves[starts[0] + _FLAGS // 2] & _BRANCH:
            break
        pages = low | high << 16 | flags << 32
    lengths = 2 + halves[nodes + _KEY_SIZE // 2].astype(np.int64) + (low | high << 16)
    return nodes * 2 + _KEY_SIZE, np.where(flags == 0, lengths, 0)


def _newest_meta(content: bytes | memoryview) -> tuple[int, int, int]:
    """(page size, root page of the main tree, number of the last page) by the newer one of the two meta pages."""
    magic, version, page_size = _META.unpack_from(content)
    if (magic, version) != (_MAGIC, _FORMAT):
        raise ValueError(f"not an LMDB file of data format {_FORMAT}: magic {magic:#x}, format {version}")
    root, last, _ = max((_ROOT.unpack_from(content, page) for page in (0, page_size)), key=lambda meta: meta[2])
    return page_size, root, last
