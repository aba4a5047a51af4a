"""Opening a segment's LMDB files: once per process, shared by the versions that hold the segment."""

import threading
from pathlib import Path
from typing import Any

import lmdb

from forecache.errors import UnavailableError


class ShardHandle:
    """An open LMDB file with the read transaction that serves every thread.

    The file never changes, so one transaction sees all of it for ever and LMDB's lock file is not needed. Gets on
    one read-only transaction share no state, so threads may use it at once.

    Attributes:
        warm: Whether this process has read the file into the page cache.
    """

    __slots__ = ("environment", "path", "references", "transaction", "warm")

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.environment = lmdb.open(
                str(path), subdir=False, readonly=True, create=False, lock=False, readahead=False, max_readers=1
            )
        except lmdb.Error as error:
            raise UnavailableError(
                f"The segment file {path} cannot be opened: {error}.", remedy="Roll back or publish again."
            ) from None
        self.transaction: Any = self.environment.begin()
        self.references = 0
        self.warm = False


_open: dict[Path, ShardHandle] = {}
_lock = threading.Lock()


def acquire(path: Path) -> ShardHandle:
    """Open a segment file, or count one more user of it. LMDB refuses a second open in one process."""
    with _lock:
        handle = _open.get(path)
        if handle is None:
            handle = _open[path] = ShardHandle(path)
        handle.references += 1
        return handle


def release(handle: ShardHandle) -> None:
    """Count one user less; the last one unmaps the file."""
    with _lock:
        handle.references -= 1
        if handle.references == 0:
            del _open[handle.path]
            handle.transaction.abort()
            handle.environment.close()
