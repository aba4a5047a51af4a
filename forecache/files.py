"""Durable files, locks between the processes of a machine, and folders that are removed with their process."""

import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_S = 0.2
_HOLDER_BYTES = 200


@contextmanager
def replacing(path: Path, *, mode: int = 0o666) -> Iterator[Path]:
    """Yield the path of an empty file, which atomically replaces `path` when the block ends without an error.

    After a crash, even of the machine, `path` has either the old content or the complete new one.

    Args:
        mode: Permissions, less the umask.
    """
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
    """Replace a file's content as `replacing` does; text is written as UTF-8."""
    with replacing(path, mode=mode) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def move_durably(source: Path, target: Path) -> None:
    """Rename a folder or file whose content is already on the disk."""
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

    The kernel frees it when no process has the descriptor open any more.

    Args:
        holder: Text about this process, which other processes can show.
        waiting: Called once with the other holder's text if the lock is taken.
        refused: Makes the error to raise from the other holder's text if the lock is still taken after `wait_s`; None:
            wait without a limit.
        mode: Permissions of a new file, less the umask.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        if not try_lock(descriptor):
            waiting(_holder(descriptor))
            if refused is None:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            elif not _locked_within(wait_s, descriptor):
                raise refused(_holder(descriptor))
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


def _locked_within(wait_s: float, descriptor: int) -> bool:
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        time.sleep(_POLL_S)
        if try_lock(descriptor):
            return True
    return False


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, _HOLDER_BYTES, 0).decode(errors="replace").strip() or "another process"
