"""One process at a time in the folder of a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forecache.errors import ConflictError
from forecache.files import lock

GRACE_S = 35.0
"""How long the workers of a training that is told to stop, or whose launcher was killed, may take to save and end."""


@contextmanager
def only_one(folder: Path, doing: str, *, wait_s: float = 0.0) -> Iterator[int]:
    """Hold the folder's lock; yields its file descriptor, which holds it as long as any process has it open.

    Args:
        doing: What the folder is for, in a word, for the error.
        wait_s: How long another holder may take to end: the workers of a launcher that was killed save first.

    Raises:
        ConflictError: Another process holds it.
    """

    def refused(_: str) -> ConflictError:
        return ConflictError(
            f"Another process is {doing} in {folder}.", remedy="Wait for it, or stop it, and run again."
        )

    with lock(folder / "lock", refused=refused, wait_s=wait_s) as descriptor:
        yield descriptor
