"""The pointer of a versioned folder, which decides what is served, and its copy; both are moved under a lock."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from forecache.base.errors import ConflictError, DamagedError, UnavailableError
from forecache.base.files import is_locked, lock, write_durably
from forecache.base.steps import is_looking
from forecache.kit.versioned.folder import P, VersionedFolder


def read_pointer(folder: VersionedFolder[P]) -> P:
    """Read the pointer, or its copy if the pointer is damaged or missing; an empty one before the first version.

    Raises DamagedError if both are damaged.
    """
    try:
        return _read(folder, folder.pointer)
    except (FileNotFoundError, DamagedError) as problem:
        try:
            return _read(folder, folder.pointer_copy)
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
def lock_versions(
    folder: VersionedFolder[P],
    *,
    action: str,
    wait_s: float | None = None,
    report: Callable[[str], None] = lambda holder: None,
) -> Iterator[None]:
    """Hold the folder's exclusive lock; the kernel frees it when the process dies.

    First repairs the pointer and its copy, if the previous holder was killed between writing the two. If it is taken,
    `report` is called with its holder; after `wait_s` (None: as long as folders of this kind wait) a ConflictError
    names that process and its action. A process that only looks takes no lock.
    """

    def locked_error(holder: str) -> ConflictError:
        return ConflictError(
            folder.locked_text.format(name=folder.name, holder=holder),
            remedy="Wait until it has finished; nothing was changed.",
        )

    if is_looking():
        yield
        return
    folder.create()
    holder = f"process {os.getpid()} ({action})"
    wait_s = folder.lock_wait_s if wait_s is None else wait_s
    with lock(folder.lock, holder=holder, waiting=report, refused=locked_error, wait_s=wait_s):
        repair_pointer(folder)
        yield


def is_copy_equal(folder: VersionedFolder[P]) -> bool:
    """Return whether pointer and copy are equal, also before the first version; DamagedError if both are damaged."""
    pointer = read_pointer(folder)
    content = pointer.to_json()
    paths = (folder.pointer, folder.pointer_copy)
    return pointer == folder.pointer_type() or all(path.is_file() and path.read_bytes() == content for path in paths)


def pointer_problem(folder: VersionedFolder[P]) -> str:
    """The problem of the pointer or its copy, in a sentence; "" if both are whole and equal."""
    paths = (folder.pointer, folder.pointer_copy)
    if not any(path.exists() for path in paths) and not any(folder.lease(each).exists() for each in folder.numbers()):
        return ""  # before the first version; manifests alone are of versions in a remote
    for path in paths:
        try:
            _read(folder, path)
        except FileNotFoundError:
            return f"The file {path} is missing."
        except UnavailableError as error:
            return error.message
    # Compared twice: a move in progress at the first time has ended by the second, or holds the lock in between.
    if not is_copy_equal(folder) and not is_locked(folder.lock) and not is_copy_equal(folder):
        return f"The file {folder.pointer_copy} is not a copy of {folder.pointer.name}."
    return ""


def earlier_versions(folder: VersionedFolder[P], pointer: P, *, than: int | None) -> Iterator[int]:
    """The versions before `than` that are not blocked, the newest first; none if `than` is None."""
    for number in reversed(folder.numbers()):
        if number < (than or 0) and not folder.is_blocked(number, pointer):
            yield number


def _read(folder: VersionedFolder[P], path: Path) -> P:
    pointer: P = folder.pointer_type.from_json(path.read_bytes(), what=f"The file {path}")
    return pointer
