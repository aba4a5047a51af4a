"""A folder of one process, which is gone with it: at its end, or at the start of a later one where it was killed."""

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
    """A new folder while the block runs; those that killed processes have left in `parent` are removed."""
    remove_left(parent, prefix)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as made:
        descriptor = hold(made)
        try:
            yield Path(made)
        finally:
            os.close(descriptor)


def hold(folder: str) -> int:
    """Lock a folder for as long as the returned descriptor is open, so that `remove_left` leaves it alone."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try_lock(descriptor)
    return descriptor


def remove_left(parent: Path, prefix: str) -> None:
    """Remove the folders whose names begin so and which no living process holds."""
    for path in parent.glob(f"{prefix}*"):
        with suppress(OSError):  # somebody else's, or gone meanwhile
            if time.time() - path.stat().st_mtime < _YOUNG_S:
                continue  # its process may be about to lock it
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if try_lock(descriptor):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)
