"""Leases, which keep open versions from being removed, and the removal of old versions that nobody uses."""

import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from forecache.base.files import try_lock
from forecache.kit.versioned.folder import P, VersionedFolder

_LEASE_TRIES, _LEASE_PAUSE_S = 10, 0.005


def take_lease(folder: VersionedFolder[P], number: int) -> int | None:
    """Keep a version from being removed while the returned descriptor is open; None if it does not exist any more."""
    for _ in range(_LEASE_TRIES):
        try:
            descriptor = os.open(folder.lease(number), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        is_held = try_lock(descriptor, shared=True)
        if is_held and folder.has_version(number):
            return descriptor
        os.close(descriptor)
        if is_held:
            return None
        # It is being removed, or another process is checking whether it is open.
        time.sleep(_LEASE_PAUSE_S)
    return None


@contextmanager
def keep_version(folder: VersionedFolder[P], number: int) -> Iterator[bool]:
    """Keep a version from being removed while the block runs; yields whether it exists."""
    lease = take_lease(folder, number)
    try:
        yield lease is not None
    finally:
        if lease is not None:
            os.close(lease)


@contextmanager
def try_evict(folder: VersionedFolder[P], number: int) -> Iterator[bool]:
    """Yield whether the version may be removed: no process has it open, and none can open it in the block.

    The caller holds the folder's lock.
    """
    lease = folder.lease(number)
    mode = os.O_RDONLY if lease.is_dir() else os.O_RDWR | os.O_CREAT
    descriptor = os.open(lease, mode | os.O_CLOEXEC, 0o644)
    try:
        yield try_lock(descriptor)
    finally:
        os.close(descriptor)


def is_open(folder: VersionedFolder[P], number: int) -> bool:
    """Return whether the version is open in any process."""
    return is_locked(folder.lease(number))


def is_locked(path: Path) -> bool:
    """Return whether another process holds a lock on a file or folder at this moment; False if it does not exist."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not try_lock(descriptor)
    finally:
        os.close(descriptor)


def remove_old_versions(folder: VersionedFolder[P], *, keep: int, needed: Collection[int | None]) -> list[int]:
    """Remove the versions beyond the newest `keep` besides the needed ones, and never one that is open.

    The caller holds the folder's lock.

    Returns:
        The numbers of the removed versions.
    """
    others = [number for number in folder.numbers() if number not in needed]
    removed = []
    for number in others[: max(0, len(others) - keep)]:
        with try_evict(folder, number) as free:
            if free:
                folder.remove_version(number)
                removed.append(number)
    return removed
