"""Entering mapped files into a process's page tables, so that the first reads do not stop for it page by page."""

import ctypes
from collections.abc import Iterator, Sequence
from pathlib import Path

_MADV_POPULATE_READ = 22
"""Linux 5.14 and later; elsewhere the call fails and the pages are entered when they are read."""
_CHUNK_BYTES = 4 << 20
_LIBC = ctypes.CDLL(None)
_LIBC.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def populate(paths: Sequence[Path]) -> None:
    """Enter every mapping that this process has of the files; other threads run meanwhile."""
    for first, last in _mappings({str(path.resolve()) for path in paths}):
        for start in range(first, last, _CHUNK_BYTES):
            if _LIBC.madvise(start, min(_CHUNK_BYTES, last - start), _MADV_POPULATE_READ):
                break  # the end of the file, or a kernel that cannot


def _mappings(files: set[str]) -> Iterator[tuple[int, int]]:
    """First and end address of each mapping of the files."""
    try:
        with open("/proc/self/maps") as lines:
            found = [line.rstrip("\n").split(maxsplit=5) for line in lines]
    except OSError:
        return
    for address, _, _, _, _, *name in found:
        if name and name[0] in files:
            first, _, last = address.partition("-")
            yield int(first, 16), int(last, 16)
