"""Verification of a versioned folder on disk: the pointer, its copy, and every byte of every version."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import xxhash

from forecache.base.errors import ConflictError, DamagedError, NotFoundError, UnavailableError
from forecache.kit.versioned.folder import P, VersionedFolder
from forecache.kit.versioned.pointer import is_open, keep_version, pointer_problem, read_pointer

_BLOCK_BYTES = 1 << 20


class FileInfo(Protocol):
    """A file of a version as it was written; `checksum` is the XXH3-128 of its bytes."""

    @property
    def size_bytes(self) -> int: ...
    @property
    def checksum(self) -> str: ...


class MissingFileError(DamagedError):
    """A file of a version is missing: lost, or removed with a retired version."""


@dataclass(frozen=True)
class ReadPace:
    """The rate at which files are read, by a sleep after every block."""

    bytes_per_s: float

    def pause(self, read_bytes: int, seconds: float) -> None:
        time.sleep(max(0.0, read_bytes / self.bytes_per_s - seconds))


def check_size(path: Path, info: FileInfo) -> None:
    """Raise DamagedError if a file is missing or has another size than was written."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise MissingFileError(f"The file {path} is missing.") from None
    if size != info.size_bytes:
        raise DamagedError(f"The file {path} has {size:,} bytes where {info.size_bytes:,} were written.")


def verify_file(path: Path, info: FileInfo, *, pace: ReadPace | None = None) -> int:
    """Compare a file's size and checksum with those that were written; return the bytes read.

    Raises DamagedError if they differ, or if the file is missing or cannot be read.
    """
    check_size(path, info)
    try:
        found = file_checksum(path, pace=pace)
    except FileNotFoundError:
        raise MissingFileError(f"The file {path} is missing.") from None
    except OSError as error:
        raise DamagedError(f"The file {path} cannot be read: {error.strerror}.") from None
    if found != info.checksum:
        raise DamagedError(f"The file {path} is damaged: its checksum does not match its bytes.")
    return info.size_bytes


def file_checksum(path: Path, *, pace: ReadPace | None = None) -> str:
    """XXH3-128 of a file's bytes, as hex."""
    digest, buffer = xxhash.xxh3_128(), bytearray(_BLOCK_BYTES)
    view = memoryview(buffer)
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        started = time.perf_counter()
        while count := file.readinto(buffer):
            digest.update(view[:count])
            if pace is not None:
                pace.pause(count, time.perf_counter() - started)
            started = time.perf_counter()
    return digest.hexdigest()


@dataclass(frozen=True)
class VerifyResult:
    """The result for a version, or for the pointer if `version` is None."""

    pipeline: str
    version: int | None
    state: tuple[str, ...]
    problem: str  # a sentence; "": none
    read_bytes: int = 0  # files shared with an older version are read once
    rows: int = 0  # read and compared, if `content` was set


def version_state(folder: VersionedFolder[P], number: int) -> tuple[str, ...]:
    """The marks of a version: any of "current", "pinned", "quarantined", "open"."""
    pointer = read_pointer(folder)
    marks = {
        "current": pointer.current == number,
        "pinned": pointer.pinned == number,
        "quarantined": folder.is_quarantined(number, pointer),
        "open": is_open(folder, number),
    }
    return tuple(name for name, holds in marks.items() if holds)


def verify_versions(folder: VersionedFolder[P], verify: Callable[[int], tuple[int, int]]) -> list[VerifyResult]:
    """Verify the pointer, and every version of a folder, the oldest first.

    No version is removed while it is read; one that is removed before is left out. `verify` reads a version and returns
    the numbers of bytes and of rows that it read; it raises if the version is damaged.
    """
    found = [VerifyResult(folder.name, None, (), pointer_problem(folder))]
    try:
        read_pointer(folder)
    except UnavailableError:
        return found  # without it nobody knows which versions belong to this folder
    for number in sorted({*folder.numbers(), *_required_versions(folder)}):
        state = version_state(folder, number)
        with keep_version(folder, number) as is_there:
            if not is_there and number not in _required_versions(folder):
                continue
            read_bytes, rows, problem = 0, 0, ""
            try:
                read_bytes, rows = verify(number)
            except (UnavailableError, NotFoundError, ConflictError) as error:
                problem = error.message
            found.append(VerifyResult(folder.name, number, state, problem, read_bytes, rows))
    return found


def _required_versions(folder: VersionedFolder[P]) -> set[int]:
    pointer = read_pointer(folder)
    return {number for number in (pointer.current, pointer.pinned) if number is not None}
