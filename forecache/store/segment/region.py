"""Several files mapped one after the other into one range of addresses, so that vector operations reach all of them."""

import ctypes
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_MAP_FIXED = 0x10
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]


class Region:
    """A read-only mapping of files, each at a page's start; unmapped when nothing refers to it any more.

    Attributes:
        map: All of it.
        starts: Where in it each file begins.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        sizes = [path.stat().st_size for path in paths]
        self.starts: list[int] = []
        end = 0
        for size in sizes:
            self.starts.append(end)
            end += -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self.map = mmap.mmap(-1, end, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
        address = np.frombuffer(self.map, np.uint8).ctypes.data
        for path, start, size in zip(paths, self.starts, sizes, strict=True):
            _map_at(address + start, path, size)
        self.map.madvise(mmap.MADV_RANDOM)


def _map_at(address: int, path: Path, size: int) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        mapped = _LIBC.mmap(address, size, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, descriptor, 0)
    finally:
        os.close(descriptor)
    if mapped != address:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), str(path))
