"""Locks between processes: one publisher per store, and leases that keep open versions from being removed."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from forecache.base.errors import ConflictError
from forecache.base.files import lock, try_lock
from forecache.base.results import Progress
from forecache.serve.store.layout import StoreLayout
from forecache.serve.store.pointer import repair_pointer

_LEASE_TRIES, _LEASE_PAUSE_S = 10, 0.005


@contextmanager
def publisher_lock(layout: StoreLayout, *, action: str) -> Iterator[None]:
    """Hold the store's exclusive lock; the kernel frees it when the process dies.

    First repairs the pointer and its copy, if the previous holder was killed between writing the two.

    Raises:
        ConflictError: Another process holds it; the message names the process and its action.
    """

    def locked_error(holder: str) -> ConflictError:
        return ConflictError(
            f"The store of {layout.root.name} is being changed by {holder}.",
            remedy="Wait until it has finished; nothing was changed.",
        )

    layout.create()
    with lock(layout.lock, holder=f"process {os.getpid()} ({action})", refused=locked_error):
        repair_pointer(layout)
        yield


def is_being_changed(layout: StoreLayout) -> bool:
    """Return whether another process holds the store's lock at this moment."""
    try:
        descriptor = os.open(layout.lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not try_lock(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def targets_lock(layout: StoreLayout, progress: Progress) -> Iterator[None]:
    """Hold the lock for updating Redis and remotes from the store; other processes wait for it.

    The served version is read under the lock. So a slower process neither overwrites a newer version with an older one,
    nor removes one that is about to be served.
    """

    def report_waiting(holder: str) -> None:
        progress(f"Waiting for {holder}, which brings {layout.root.name} to other places", None)

    with lock(layout.targets, holder=f"process {os.getpid()}", waiting=report_waiting):
        yield


def take_lease(layout: StoreLayout, version: int) -> int | None:
    """Keep a version from being removed while the returned descriptor is open; None if it does not exist any more."""
    for _ in range(_LEASE_TRIES):
        try:
            descriptor = os.open(layout.lease(version), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        is_held = try_lock(descriptor, shared=True)
        if is_held and layout.manifest(version).exists():
            return descriptor
        os.close(descriptor)
        if is_held:
            return None
        # It is being removed, or another process is checking whether it is open.
        time.sleep(_LEASE_PAUSE_S)
    return None


@contextmanager
def keep_version(layout: StoreLayout, version: int) -> Iterator[bool]:
    """Keep a version from being removed while the block runs; yields whether it exists."""
    lease = take_lease(layout, version)
    try:
        yield lease is not None
    finally:
        if lease is not None:
            os.close(lease)


@contextmanager
def try_evict(layout: StoreLayout, version: int) -> Iterator[bool]:
    """Yield whether the version may be removed: no snapshot of it is open, and none can be opened in the block."""
    descriptor = os.open(layout.lease(version), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield try_lock(descriptor)
    finally:
        os.close(descriptor)


def is_open(layout: StoreLayout, version: int) -> bool:
    """Return whether a snapshot of the version is open in any process."""
    if not layout.lease(version).exists():
        return False
    with try_evict(layout, version) as free:
        return not free
