"""One run at a time writes a table from one machine: a second one waits, and finds that there is nothing left to do.

Runs on other machines do not wait; there the commit decides (see `forecache.lake.delta.partitions`).
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from forecache.results import Progress
from forecache.settings import Settings

_LOOK_AGAIN_S = 0.1


@contextmanager
def own_turn(settings: Settings, table: str, run_id: str, progress: Progress) -> Iterator[None]:
    """Hold an exclusive lock on the table for this machine; the kernel releases it when the process dies."""
    path = settings.home_path / "locks" / table
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _wait(descriptor, table, progress)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()}{f' (run {run_id})' if run_id else ''}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _wait(descriptor: int, table: str, progress: Progress) -> None:
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not told:
                holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
                progress(f"waiting for {holder}, which writes {table}", None)
                told = True
        time.sleep(_LOOK_AGAIN_S)
