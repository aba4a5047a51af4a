"""Opening a segment's files: once per process, shared by the versions that hold the segment."""

import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmdb

from forecache.errors import DamagedError

if TYPE_CHECKING:
    from forecache.store.index import Index


class SegmentHandle:
    """Open LMDB files, each with the read transaction that serves every thread, and the index where there is one.

    The files never change, so one transaction sees all of a file for ever and LMDB's lock file is not needed. Gets on
    one read-only transaction share no state, so threads may use it at once.

    Attributes:
        inodes: Of the files that were opened: where the paths lead to others by now, those are not what is read.
        transactions: One for each shard.
        index: Of a base; None of a delta.
        warm: Whether this process has read the files into the page cache.
    """

    __slots__ = ("_environments", "index", "inodes", "paths", "references", "transactions", "warm")

    def __init__(self, paths: Sequence[Path], *, indexed: bool) -> None:
        self.paths = paths
        self.inodes = [path.stat().st_ino for path in paths]
        self._environments: list[lmdb.Environment] = []
        self.transactions: list[Any] = []
        self.index: Index | None = None
        self.references = 0
        self.warm = False
        try:
            for path in paths:
                self._open(path)
            if indexed and paths:
                self.index = _open_index(paths)
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path) -> None:
        try:
            environment = lmdb.open(
                str(path), subdir=False, readonly=True, create=False, lock=False, readahead=False, max_readers=1
            )
        except lmdb.Error as error:
            raise DamagedError(f"The segment file {path} cannot be opened: {error}.") from None
        self._environments.append(environment)
        self.transactions.append(environment.begin())

    def replaced(self) -> bool:
        """Whether the paths lead to other files than those that are open; where they lead nowhere, they do not."""
        found = [path.stat().st_ino if path.exists() else None for path in self.paths]
        return any(now not in (None, then) for now, then in zip(found, self.inodes, strict=True))

    def close(self) -> None:
        if self.index is not None:
            self.index.close()
        while self.transactions:
            self.transactions.pop().abort()
        while self._environments:
            self._environments.pop().close()


def _open_index(paths: Sequence[Path]) -> "Index":
    # Here, so that a client of the reader, which imports the store's keys, does not load numpy.
    from forecache.store.index import Index
    from forecache.store.pages import pages_size
    from forecache.store.region import Region

    try:
        region = Region(paths)
        return Index(region, [pages_size(memoryview(region.map)[start:]) for start in region.starts])
    except (OSError, ValueError, OverflowError, struct.error) as error:
        raise DamagedError(f"The index of the segment {paths[0].parent} cannot be read: {error}.") from None


_open: dict[Path, SegmentHandle] = {}
_lock = threading.Lock()


def acquire(folder: Path, files: Sequence[str], *, indexed: bool) -> SegmentHandle:
    """Open a segment, or count one more user of it. LMDB refuses a second open of a file in one process."""
    with _lock:
        handle = _open.get(folder)
        if handle is None:
            handle = _open[folder] = SegmentHandle([folder / file for file in files], indexed=indexed)
        handle.references += 1
        return handle


def release(folder: Path) -> None:
    """Count one user less; the last one unmaps the files."""
    with _lock:
        handle = _open[folder]
        handle.references -= 1
        if handle.references == 0:
            del _open[folder]
            handle.close()
