"""The pointer of a versioned folder and its copy, moved under a lock; leases, and removal of old versions."""

import os
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from forecache.base.errors import ConflictError, DamagedError, UnavailableError
from forecache.base.files import lock, try_lock, write_durably
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


def surplus_versions(numbers: Iterable[int], *, keep: int, needed: Collection[int | None]) -> list[int]:
    """The versions beyond the newest `keep` besides the needed ones, ascending."""
    others = sorted(number for number in numbers if number not in needed)
    return others[: max(0, len(others) - keep)]


def remove_old_versions(folder: VersionedFolder[P], *, keep: int, needed: Collection[int | None]) -> list[int]:
    """Remove the versions beyond the newest `keep` besides the needed ones, and never one that is open; returns which.

    The caller holds the folder's lock.
    """
    removed = []
    for number in surplus_versions(folder.numbers(), keep=keep, needed=needed):
        with try_evict(folder, number) as free:
            if free:
                folder.remove_version(number)
                removed.append(number)
    return removed


def read_pointer(folder: VersionedFolder[P]) -> P:
    """Read the pointer, or its copy if the pointer is damaged or missing; an empty one before the first version.

    Quarantined versions are skipped in the copy: a rollback may have been killed after it quarantined a version and
    before it wrote the copy.

    Raises:
        DamagedError: Both are damaged.
    """
    try:
        return _read(folder, folder.pointer)
    except (FileNotFoundError, DamagedError) as problem:
        try:
            return _skip_quarantined(folder, _read(folder, folder.pointer_copy))
        except FileNotFoundError:
            if isinstance(problem, FileNotFoundError):
                empty: P = folder.pointer_type()
                return empty
            raise problem from None
        except DamagedError:
            raise DamagedError(
                f"{folder.pointer_text.format(name=folder.name)} is damaged: {folder.pointer} and its copy "
                f"{folder.pointer_copy}.",
                remedy=folder.pointer_remedy.format(name=folder.name),
            ) from None


def write_pointer(folder: VersionedFolder[P], pointer: P) -> None:
    """Move the pointer; the caller holds the folder's lock.

    The copy is written first: after a kill between the two writes, it is never older than the pointer.
    """
    for path in (folder.pointer_copy, folder.pointer):
        write_durably(path, pointer.to_json())


def repair_pointer(folder: VersionedFolder[P]) -> None:
    """Write pointer or copy again if one is missing, damaged or older; the caller holds the folder's lock."""
    try:
        if not is_copy_equal(folder):
            write_pointer(folder, read_pointer(folder))
    except DamagedError:
        return  # both are damaged: a pull that verifies, or an operator, has to replace them


@contextmanager
def lock_versions(folder: VersionedFolder[P], *, action: str) -> Iterator[None]:
    """Hold the folder's exclusive lock; the kernel frees it when the process dies.

    First repairs the pointer and its copy, if the previous holder was killed between writing the two.

    Raises:
        ConflictError: Another process holds it; the message names the process and its action.
    """

    def locked_error(holder: str) -> ConflictError:
        return ConflictError(
            folder.locked_text.format(name=folder.name, holder=holder),
            remedy="Wait until it has finished; nothing was changed.",
        )

    folder.create()
    holder = f"process {os.getpid()} ({action})"
    with lock(folder.lock, holder=holder, refused=locked_error, wait_s=folder.lock_wait_s):
        repair_pointer(folder)
        yield


def is_being_changed(folder: VersionedFolder[P]) -> bool:
    """Return whether another process holds the folder's lock at this moment."""
    return is_locked(folder.lock)


def is_copy_equal(folder: VersionedFolder[P]) -> bool:
    """Return whether pointer and copy are equal, also before the first version; raises DamagedError if both are
    damaged.
    """
    pointer = read_pointer(folder)
    content = pointer.to_json()
    paths = (folder.pointer, folder.pointer_copy)
    return pointer == folder.pointer_type() or all(path.is_file() and path.read_bytes() == content for path in paths)


def pointer_problem(folder: VersionedFolder[P]) -> str:
    """The problem of the pointer or its copy, in a sentence; "" if both are whole and equal."""
    paths = (folder.pointer, folder.pointer_copy)
    if not any(path.exists() for path in paths) and not folder.numbers():
        return ""  # before the first version
    for path in paths:
        try:
            _read(folder, path)
        except FileNotFoundError:
            return f"The file {path} is missing."
        except UnavailableError as error:
            return error.message
    # Compared twice: a move in progress at the first time has ended by the second, or holds the lock in between.
    if not is_copy_equal(folder) and not is_being_changed(folder) and not is_copy_equal(folder):
        return f"The file {folder.pointer_copy} is not a copy of {folder.pointer.name}."
    return ""


def earlier_versions(folder: VersionedFolder[P], pointer: P, *, than: int | None) -> Iterator[int]:
    """The versions before `than` that are not quarantined, the newest first; none if `than` is None."""
    for number in reversed(folder.numbers()):
        if number < (than or 0) and not folder.is_quarantined(number, pointer):
            yield number


def _read(folder: VersionedFolder[P], path: Path) -> P:
    pointer: P = folder.pointer_type.from_json(path.read_bytes(), what=f"The file {path}")
    return pointer


def _skip_quarantined(folder: VersionedFolder[P], pointer: P) -> P:
    """Replace a quarantined current version by the newest good one before it, and drop a quarantined pin."""
    changes: dict[str, int | None] = {}
    if pointer.pinned is not None and folder.is_quarantined(pointer.pinned, pointer):
        changes["pinned"] = None
    if pointer.current is not None and folder.is_quarantined(pointer.current, pointer):
        changes["current"] = next(earlier_versions(folder, pointer, than=pointer.current), None)
    return replace(pointer, **changes)  # type: ignore[type-var]
