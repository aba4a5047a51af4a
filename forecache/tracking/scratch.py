"""A folder for copies of models that is gone with its process, also with one that was killed."""

import os
import shutil
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from forecache.files import try_lock

_PREFIX = "forecache-scratch-"
_YOUNG_S = 60.0


@cache
def scratch_folder() -> str:
    """This process's folder among the temporary files (TMPDIR); those of dead processes are removed."""
    _remove_orphans()
    folder = _held(tempfile.TemporaryDirectory(prefix=_PREFIX))
    return folder.name


_holding: list[tuple["tempfile.TemporaryDirectory[str]", int]] = []


def _held(folder: "tempfile.TemporaryDirectory[str]") -> "tempfile.TemporaryDirectory[str]":
    """Lock a folder for as long as this process lives; the object that removes it lives as long."""
    descriptor = os.open(folder.name, os.O_RDONLY | os.O_CLOEXEC)
    try_lock(descriptor)
    _holding.append((folder, descriptor))
    return folder


def _remove_orphans() -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # somebody else's, or gone meanwhile
            if time.time() - path.stat().st_mtime < _YOUNG_S:
                continue  # its process may be about to lock it
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if try_lock(descriptor):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)
