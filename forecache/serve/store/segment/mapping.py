"""Mapping of a segment's files into memory: once per process, shared by the versions that contain the segment."""

import ctypes
import mmap
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmdb

from forecache.base.errors import ConflictError, DamagedError

if TYPE_CHECKING:
    from forecache.serve.store.segment.index import Index

_MAP_FIXED = 0x10
_MADV_DONTNEED = 4
_MADV_POPULATE_READ = 22  # Linux 5.14 and later; elsewhere the call fails and the pages are entered when they are read
_ADVISED_BYTES = 4 << 20
_BEHIND = 1 << 17
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_LIBC.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class _LmdbFile:
    """An LMDB file, open with the read transaction that serves every thread.

    It never changes, so one transaction is enough and LMDB's lock file is not needed. Gets on one read-only transaction
    share no state, so threads may use it at the same time.
    """

    __slots__ = ("environment", "inode", "path", "references", "transaction")

    def __init__(self, path: Path, inode: tuple[int, int]) -> None:
        self.path, self.inode = path, inode
        self.references = 0
        try:
            self.environment = lmdb.open(
                str(path), subdir=False, readonly=True, create=False, lock=False, readahead=False, max_readers=1
            )
        except lmdb.Error as error:
            raise DamagedError(f"The segment file {path} cannot be opened: {error}.") from None
        self.transaction: Any = self.environment.begin()

    def close(self) -> None:
        self.transaction.abort()
        self.environment.close()


class SegmentHandle:
    """Open files of a segment, and its index if it is a base."""

    __slots__ = ("_files", "folder", "index", "paths", "references", "transactions", "verified")

    def __init__(self, folder: Path, files: Sequence[str], *, indexed: bool) -> None:
        self.folder = folder
        self.paths = [folder / file for file in files]
        self._files: list[_LmdbFile] = []
        self.index: Index | None = None
        self.references = 0
        self.transactions: list[Any] = []
        self.verified = False
        try:
            for path in self.paths:
                self._files.append(_open_file(path))
                self.transactions.append(self._files[-1].transaction)
            if indexed and files:
                self.index = _open_index(self.paths)
            if self.is_replaced():
                raise ConflictError(f"The files of the segment {folder} are being replaced.", remedy="Try again.")
        except BaseException:
            self.close()
            raise

    def is_replaced(self) -> bool:
        """Return whether a path leads to another file than the open one; a missing file is not replaced."""
        return any(is_other_file(path, file.inode) for path, file in zip(self.paths, self._files, strict=True))

    def close(self) -> None:
        """Unmap the files that no other segment shares.

        Unmapping keeps the interpreter's lock, for as long as there are page table entries to clear; so these are
        cleared before.
        """
        for file in self._files:
            file.references -= 1
        unused = {file.inode: file for file in self._files if file.references == 0}
        if self.index is not None:
            _advise(*self.index.region, _MADV_DONTNEED)
            self.index.close()
        for region in _find_mappings([file.path for file in unused.values()]):
            _advise(*region, _MADV_DONTNEED)
        self.transactions.clear()
        self._files.clear()
        for inode, file in unused.items():
            del _files[inode]
            file.close()


def inode_of(path: Path) -> tuple[int, int]:
    """(device, inode) of the file at a path."""
    found = os.stat(path)
    return found.st_dev, found.st_ino


def is_other_file(path: Path, inode: tuple[int, int]) -> bool:
    """Return whether a path leads to another file than the one of that inode; False if it leads to none."""
    try:
        return inode_of(path) != inode
    except FileNotFoundError:
        return False


def _open_index(paths: Sequence[Path]) -> "Index":
    # Here, so that a client of the reader, which imports the store's keys, does not load numpy.
    from forecache.serve.store.segment.index import Index, pages_size

    try:
        mapped, starts = _map_together(paths)
        return Index(mapped, starts, [pages_size(memoryview(mapped)[start:]) for start in starts])
    except (OSError, ValueError, OverflowError, struct.error) as error:
        raise DamagedError(f"The index of the segment {paths[0].parent} cannot be read: {error}.") from None


def _map_together(paths: Sequence[Path]) -> tuple[mmap.mmap, list[int]]:
    """Map files one after the other, so that vector operations reach all of them: (mapping, offset of each file).

    The mapping is read-only, each file begins at a page's start, and it ends when nothing refers to it any more. Zeros
    follow the last file, so that the length of any record can be read from every offset in a file.
    """
    import numpy as np

    sizes = [path.stat().st_size for path in paths]
    pages = [-(-size // mmap.PAGESIZE) for size in sizes]
    *starts, end = (count * mmap.PAGESIZE for count in accumulate(pages, initial=0))
    mapped = mmap.mmap(-1, end + _BEHIND, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
    address = np.frombuffer(mapped, np.uint8).ctypes.data
    for path, start, size in zip(paths, starts, sizes, strict=True):
        _map_at(address + start, path, size)
    mapped.madvise(mmap.MADV_RANDOM)
    return mapped, starts


def _map_at(address: int, path: Path, size: int) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        mapped = _LIBC.mmap(address, size, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, descriptor, 0)
    finally:
        os.close(descriptor)
    if mapped != address:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), str(path))


_open: dict[Path, SegmentHandle] = {}
_files: dict[tuple[int, int], _LmdbFile] = {}
"""Open files by inode: LMDB refuses a second open of a file in one process."""
_lock = threading.Lock()


def _open_file(path: Path) -> _LmdbFile:
    inode = inode_of(path)
    file = _files.get(inode)
    if file is None:
        file = _files[inode] = _LmdbFile(path, inode)
    file.references += 1
    return file


def acquire(folder: Path, files: Sequence[str], *, indexed: bool) -> SegmentHandle:
    """Open a segment, or count one more user of it; one whose files were replaced is opened again."""
    with _lock:
        handle = _open.get(folder)
        if handle is None or handle.is_replaced():
            handle = _open[folder] = SegmentHandle(folder, files, indexed=indexed)
        handle.references += 1
        return handle


def release(handle: SegmentHandle) -> None:
    """Count one user less; the last one unmaps the files."""
    with _lock:
        handle.references -= 1
        if handle.references == 0:
            if _open.get(handle.folder) is handle:
                del _open[handle.folder]
            handle.close()


def populate_page_tables(paths: Sequence[Path]) -> None:
    """Enter the files into this process's page tables, so that first reads cause no page faults.

    Covers every mapping that the process has of them; other threads run meanwhile.
    """
    for region in _find_mappings(paths):
        _advise(*region, _MADV_POPULATE_READ)


def _advise(first: int, last: int, advice: int) -> None:
    """Call madvise for a region in short steps; other threads run meanwhile."""
    for start in range(first, last, _ADVISED_BYTES):
        if _LIBC.madvise(start, min(_ADVISED_BYTES, last - start), advice):
            break  # the end of the file, or a kernel that cannot


def _find_mappings(paths: Sequence[Path]) -> Iterator[tuple[int, int]]:
    """(first, last address) of each mapping that this process has of the files."""
    ends = tuple(f" {path.resolve()}" for path in paths)
    if not ends:
        return
    try:
        content = Path("/proc/self/maps").read_text(errors="surrogateescape")
    except OSError:
        return
    for line in content.splitlines():
        if line.endswith(ends):
            first, _, last = line.partition(" ")[0].partition("-")
            yield int(first, 16), int(last, 16)
