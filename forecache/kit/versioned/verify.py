"""Verification of the files of versions, and the state of a version."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import xxhash

from forecache.base.errors import DamagedError
from forecache.kit.versioned.folder import P, VersionedFolder
from forecache.kit.versioned.leases import is_open
from forecache.kit.versioned.pointer import read_pointer

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
    """Compare a file's size and checksum with those that were written; return the bytes read, or raise DamagedError."""
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


def version_state(folder: VersionedFolder[P], number: int, pointer: P | None = None) -> tuple[str, ...]:
    """The marks of a version: any of "current", "pinned", "blocked", "open"; by default of the pointer here."""
    pointer = read_pointer(folder) if pointer is None else pointer
    marks = {
        "current": pointer.current == number,
        "pinned": pointer.pinned == number,
        "blocked": folder.is_blocked(number, pointer),
        "open": is_open(folder, number),
    }
    return tuple(name for name, holds in marks.items() if holds)
