"""The lock of a stream: one process at a time on this machine; a second machine is refused by the table's offsets."""

import os
from contextlib import AbstractContextManager

from forecache.base.errors import ConflictError
from forecache.base.files import lock
from forecache.base.settings import Settings
from forecache.base.stream_state import LOCK, stream_folder


def lock_stream(settings: Settings, name: str) -> AbstractContextManager[object]:
    """Hold the lock of a stream.

    Raises:
        ConflictError: Another process holds it.
    """

    def conflict_error(holder: str) -> ConflictError:
        return ConflictError(
            f"The stream {name!r} is run by {holder} on this machine.",
            remedy="One process runs a stream: stop the other one first.",
        )

    path = stream_folder(settings.home_path, name) / LOCK
    return lock(path, holder=f"process {os.getpid()}", refused=conflict_error, wait_s=1.0)
