"""Durable files, locks between the processes of a machine, and folders that are removed with their process."""

import fcntl
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from forecache.base.steps import begin_work

_POLL_S = 0.2
_HOLDER_BYTES = 200
_YOUNG_S = 60.0


@contextmanager
def replace_file(path: Path, *, mode: int = 0o666) -> Iterator[Path]:
    """Yield the path of an empty file, which atomically replaces `path` when the block ends without an error.

    After a crash, even of the machine, `path` has either the old content or the complete new one. `mode` is less the
    umask.
    """
    begin_work(f"writing {path}")
    # In the same folder, hidden, and with the same ending, by which some libraries choose a format.
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(8)}.tmp{path.suffix}")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode))
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_durably(path: Path, content: bytes | str, *, mode: int = 0o666) -> None:
    """Replace a file's content as `replace_file` does; text is written as UTF-8."""
    with replace_file(path, mode=mode) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def move_durably(source: Path, target: Path) -> None:
    """Rename a folder or file whose content is already on the disk."""
    begin_work(f"moving {target}")
    os.rename(source, target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Flush a file or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def lock(
    path: Path,
    *,
    holder: str = "",
    waiting: Callable[[str], None] = lambda holder: None,
    refused: Callable[[str], Exception] | None = None,
    wait_s: float = 0.0,
    mode: int = 0o666,
) -> Iterator[int]:
    """Hold an exclusive lock on a file, which is created if it is missing; yields its descriptor.

    The kernel frees it when no process has the descriptor open any more. `holder` is a text about this process, which
    others can show. If the lock is taken, `waiting` is called once with the text of its holder. If it still is after
    `wait_s`, the error that `refused` makes from this text is raised; without `refused`, it waits without a limit.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        if not try_lock(descriptor):
            waiting(_read_holder(descriptor))
            if refused is None:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            elif not _try_lock_for(wait_s, descriptor):
                raise refused(_read_holder(descriptor))
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file or folder for as long as its descriptor is open; False if another process has a lock on it."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path, *, by_readers: bool = False) -> bool:
    """Tell if a process of this machine holds the exclusive lock on a file or folder, or with `by_readers` any lock.

    A missing file is not created.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared unless readers count: two callers at the same moment do not take each other for the holder.
        return not try_lock(descriptor, shared=not by_readers)
    finally:
        os.close(descriptor)


def _try_lock_for(wait_s: float, descriptor: int) -> bool:
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        time.sleep(_POLL_S)
        if try_lock(descriptor):
            return True
    return False


def _read_holder(descriptor: int) -> str:
    return os.pread(descriptor, _HOLDER_BYTES, 0).decode(errors="replace").strip() or "another process"


@contextmanager
def process_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield a new folder for the duration of the block; removes folders of killed processes in `parent`."""
    remove_abandoned_folders(parent, prefix)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as made:
        descriptor = hold_folder(made)
        try:
            yield Path(made)
        finally:
            os.close(descriptor)


def hold_folder(folder: str) -> int:
    """Lock a folder while the returned descriptor is open, so that `remove_abandoned_folders` does not remove it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try_lock(descriptor)
    return descriptor


def remove_abandoned_folders(parent: Path, prefix: str) -> None:
    """Remove the folders in `parent` whose names begin with `prefix` and that no living process has locked."""
    for path in parent.glob(f"{prefix}*"):
        with suppress(OSError):  # owned by another user, or already removed
            if time.time() - path.stat().st_mtime < _YOUNG_S:
                continue  # its process may be about to lock it
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if try_lock(descriptor):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)
