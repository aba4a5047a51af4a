"""A temporary folder for copies of models, removed with its process, even if that is killed."""

import tempfile
from functools import cache
from pathlib import Path

from forecache.own_folder import hold, remove_left

_PREFIX = "forecache-scratch-"
_holding: list[tuple["tempfile.TemporaryDirectory[str]", int]] = []
"""The object that removes the folder, and the descriptor that locks it, kept alive as long as this process."""


@cache
def scratch_folder() -> str:
    """This process's folder among the temporary files (TMPDIR); those of dead processes are removed."""
    remove_left(Path(tempfile.gettempdir()), _PREFIX)
    folder = tempfile.TemporaryDirectory(prefix=_PREFIX)
    _holding.append((folder, hold(folder.name)))
    return folder.name
