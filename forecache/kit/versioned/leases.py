"""Leases of versions: what is open is not removed; and the removal of old versions."""

import os
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from forecache.base.files import is_locked, try_lock
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


def is_open(folder: VersionedFolder[P], number: int) -> bool:
    return is_locked(folder.lease(number), by_readers=True)


def surplus_versions(numbers: Iterable[int], *, keep: int, needed: Collection[int | None]) -> list[int]:
    """The versions beyond the newest `keep` besides the needed ones, ascending."""
    others = sorted(number for number in numbers if number not in needed)
    return others[: max(0, len(others) - keep)]


def remove_old_versions(folder: VersionedFolder[P], *, keep: int, needed: Collection[int | None]) -> list[int]:
    """Remove the surplus versions that are not open; returns which. The caller holds the folder's lock."""
    removed = []
    for number in surplus_versions(folder.numbers(), keep=keep, needed=needed):
        lease = folder.lease(number)
        try:
            descriptor = os.open(lease, (os.O_RDONLY if lease.is_dir() else os.O_RDWR) | os.O_CLOEXEC)
        except FileNotFoundError:  # it has no files here, and nobody can open it
            folder.remove_version(number)
            removed.append(number)
            continue
        try:
            if try_lock(descriptor):  # nobody has it open, or can open it until this descriptor is closed
                folder.remove_version(number)
                removed.append(number)
        finally:
            os.close(descriptor)
    return removed
