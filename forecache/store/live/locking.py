"""The lock that makes each environment of a live layer have one writer, and what both writers have in common."""

import os
from contextlib import AbstractContextManager, ExitStack
from typing import TypeVar

from forecache.errors import ConflictError
from forecache.files import lock
from forecache.store.layout import Layout

LIVE, PENDING_ROWS = "live", "pending"
"""File names of the two environments, without suffix."""

_W = TypeVar("_W", bound="Writer")


class Writer:
    """Base class of the writers: holds the lock and the environment, which are in `_held`, until it is closed."""

    _held: ExitStack

    def close(self) -> None:
        self._held.close()

    def __enter__(self: _W) -> _W:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def writer_lock(layout: Layout, kind: str) -> AbstractContextManager[int]:
    """Hold the lock of one environment.

    Raises:
        ConflictError: Another process holds it; the message says which one.
    """

    def refused(holder: str) -> ConflictError:
        return ConflictError(
            f"The {kind} rows of {layout.root.name} are being written by {holder}.",
            remedy="A live layer has one writer: stop the other one first.",
        )

    return lock(layout.streamed / f"{kind}.lock", holder=f"process {os.getpid()}", refused=refused)
