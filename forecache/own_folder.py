"""Folders of one process, removed at its end or, if it was killed, at the start of a later process."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from forecache.files import try_lock

_YOUNG_S = 60.0


@contextmanager
def own_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield a new folder for the duration of the block; removes folders of killed processes in `parent`."""
    remove_left(parent, prefix)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as made:
        descriptor = hold(made)
        try:
            yield Path(made)
        finally:
            os.close(descriptor)


def hold(folder: str) -> int:
    """Lock a folder for as long as the returned descriptor is open, so that `remove_left` does not remove it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try_lock(descriptor)
    return descriptor


def remove_left(parent: Path, prefix: str) -> None:
    """Remove the folders in `parent` whose names begin with `prefix` and that no living process has locked."""
    for path in parent.glob(f"{prefix}*"):
        with suppress(OSError):  # owned by another user, or already removed
            if time.time() - path.stat().st_mtime < _YOUNG_S:
                continue  # its process may be about to lock it
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if try_lock(descriptor):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)
