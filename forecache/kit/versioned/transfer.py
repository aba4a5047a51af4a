"""Copies of a versioned folder in a remote folder or bucket: small files that are swapped, and files of versions."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from forecache.base.errors import CheckError, DamagedError, NotFoundError
from forecache.base.files import move_durably, sync
from forecache.base.folders import Folder
from forecache.kit.versioned.folder import P, VersionedFolder
from forecache.kit.versioned.pointer import read_pointer
from forecache.kit.versioned.verify import FileInfo, file_checksum

_TRANSFERS = 4


def read_content(remote: Folder, name: str) -> bytes | None:
    """The bytes of a small file, None if it is not there."""
    found = remote.read(name)
    return None if found is None else found[0]


def swap_file(remote: Folder, name: str, content: bytes, seen: tuple[bytes, Any] | None) -> bool:
    """Write a small file if it has not changed since it was read as `seen`; return whether it has the content now."""
    if seen is not None and seen[0] == content:
        return True
    is_written = remote.swap(name, content, seen[1] if seen else None) is not None
    return is_written or read_content(remote, name) == content


def upload_missing(
    remote: Folder, files: Mapping[str, tuple[Path, FileInfo]], report: Callable[[float], None]
) -> tuple[list[str], int]:
    """Upload the files that a remote lacks; returns their names there, and their bytes.

    Args:
        files: Where each is here, by its name there.
        report: Called with the share that is done.
    """
    missing = {name: file for name, file in files.items() if remote.size(name) != file[1].size_bytes}
    done, total = 0, sum(info.size_bytes for _, info in missing.values()) or 1
    with ThreadPoolExecutor(_TRANSFERS) as threads:
        uploads = [(threads.submit(remote.upload, path, name), info) for name, (path, info) in missing.items()]
        for upload, info in uploads:
            upload.result()
            done += info.size_bytes
            report(done / total)
    return list(missing), done


def fetch_files(remote: Folder, files: Mapping[str, tuple[Path, FileInfo]], report: Callable[[int], None]) -> None:
    """Fetch files, each into an existing folder; raises as `fetch_file`.

    Args:
        files: Where each is to be here, by its name there.
        report: Called after each file with the bytes copied for it; 0 if it was there already.
    """
    with ThreadPoolExecutor(_TRANSFERS) as threads:
        for transfer in [threads.submit(fetch_file, remote, name, *file) for name, file in files.items()]:
            report(transfer.result())


def fetch_file(remote: Folder, name: str, target: Path, info: FileInfo) -> int:
    """Fetch one file, continuing an interrupted download; returns the bytes copied.

    Raises:
        CheckError: The file does not have the checksum that was written; it is removed, so that a new try starts anew.
        NotFoundError: The remote does not have it.
    """
    part = target.with_name(f"{target.name}.part")
    if target.exists():
        return 0
    start = part.stat().st_size if part.exists() else 0
    copied = 0
    if start < info.size_bytes:
        try:
            with open(part, "ab") as file:
                for chunk in remote.chunks(name, start):
                    file.write(chunk)
                    copied += len(chunk)
        except FileNotFoundError:
            raise missing_file_error(name) from None
    sync(part)
    if part.stat().st_size != info.size_bytes or file_checksum(part) != info.checksum:
        part.unlink()
        raise CheckError(
            f"The file {name} does not have the checksum that the manifest says.",
            remedy="What is served is unchanged. Pull again; if it repeats, publish a full version.",
        )
    move_durably(part, target)
    return copied


def missing_file_error(name: str) -> NotFoundError:
    return NotFoundError(f"The remote has no file {name}.", remedy="It was removed; pull again.")


def read_replica_pointer(folder: VersionedFolder[P], *, verify: bool) -> P:
    """The replica's pointer; an empty one if it is damaged and `verify` is set, so that it is fetched again."""
    try:
        return read_pointer(folder)
    except DamagedError:
        if not verify:
            raise
        empty: P = folder.pointer_type()
        return empty
