"""Locks of a store: one publisher at a time, and one process that updates Redis and remotes from it."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from forecache.base.files import lock
from forecache.base.results import Progress
from forecache.kit.versioned.pointer import lock_versions
from forecache.serve.store.layout import StoreLayout


def publisher_lock(layout: StoreLayout, *, action: str) -> AbstractContextManager[None]:
    """Hold the store's exclusive lock; see `lock_versions`."""
    return lock_versions(layout, action=action)


@contextmanager
def targets_lock(layout: StoreLayout, progress: Progress) -> Iterator[None]:
    """Hold the lock for updating Redis and remotes from the store; other processes wait for it.

    The served version is read under the lock. So a slower process neither overwrites a newer version with an older one,
    nor removes one that is about to be served.
    """

    def report_waiting(holder: str) -> None:
        progress(f"Waiting for {holder}, which brings {layout.name} to other places", None)

    with lock(layout.targets, holder=f"process {os.getpid()}", waiting=report_waiting):
        yield
