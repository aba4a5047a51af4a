"""A file lock on the folder of a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forecache.errors import ConflictError
from forecache.files import lock

GRACE_S = 35.0
"""Seconds that workers may take to save and exit after a stop signal, or after their launcher was killed."""


@contextmanager
def only_one(folder: Path, doing: str, *, wait_s: float = 0.0) -> Iterator[int]:
    """Lock the folder; yields the lock's file descriptor. The lock lasts as long as any process has that open.

    Args:
        doing: What the lock is for, for the error message, such as "training".
        wait_s: Seconds to wait for another process to exit: workers of a killed launcher save first.

    Raises:
        ConflictError: Another process holds the lock.
    """

    def refused(_: str) -> ConflictError:
        return ConflictError(
            f"Another process is {doing} in {folder}.", remedy="Wait for it, or stop it, and run again."
        )

    with lock(folder / "lock", refused=refused, wait_s=wait_s) as descriptor:
        yield descriptor
