"""Copies of a versioned folder in a remote folder or bucket: small files, and files of versions."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from forecache.base.errors import DamagedError
from forecache.base.files import move_durably, sync
from forecache.base.folders import Folder
from forecache.kit.versioned.blocks import BlockFile, BlockFileInfo, missing_file_error, wrong_checksum_error
from forecache.kit.versioned.folder import P, VersionedFolder
from forecache.kit.versioned.pointer import read_pointer
from forecache.kit.versioned.verify import FileInfo, file_checksum

_TRANSFERS = 4


def read_content(remote: Folder, name: str) -> bytes | None:
    """The bytes of a small file, None if it is not there."""
    found = remote.read(name)
    return None if found is None else found[0]


def upload_missing(
    remote: Folder,
    files: Mapping[str, tuple[Path, FileInfo]],
    sizes: Mapping[str, int],
    report: Callable[[float], None],
) -> tuple[list[str], int]:
    """Upload the files (by name there, where each is here) that a remote lacks; returns their names, and their bytes.

    `sizes` are those of the files that it has; `report` is called with the share that is done.
    """
    missing = {name: file for name, file in files.items() if sizes.get(name) != file[1].size_bytes}
    done, total = 0, sum(info.size_bytes for _, info in missing.values()) or 1
    with ThreadPoolExecutor(_TRANSFERS) as threads:
        uploads = [(threads.submit(remote.upload, path, name), info) for name, (path, info) in missing.items()]
        for upload, info in uploads:
            upload.result()
            done += info.size_bytes
            report(done / total)
    return list(missing), done


def fetch_files(remote: Folder, files: Mapping[str, tuple[Path, BlockFileInfo]], report: Callable[[int], None]) -> None:
    """Fetch files (by name there, where each is to be here) into existing folders; raises as `fetch_file`.

    `report` is called after each with the bytes copied for it; 0 if it was there already.
    """
    with ThreadPoolExecutor(_TRANSFERS) as threads:
        for transfer in [threads.submit(fetch_file, remote, name, *file) for name, file in files.items()]:
            report(transfer.result())


def fetch_file(remote: Folder, name: str, target: Path, info: BlockFileInfo) -> int:
    """Fetch one file, continuing an interrupted download; returns the bytes copied.

    Raises NotFoundError, or CheckError for another checksum; then a new try fetches what was wrong again.
    """
    if target.exists():
        return 0
    part = target.with_name(f"{target.name}.part")
    copied = _fetch_blocks(remote, name, part, info) if info.sums else _append_rest(remote, name, part, info)
    sync(part)
    if part.stat().st_size != info.size_bytes or file_checksum(part) != info.checksum:
        part.unlink()
        raise wrong_checksum_error(name)
    move_durably(part, target)
    return copied


def _fetch_blocks(remote: Folder, name: str, part: Path, info: BlockFileInfo) -> int:
    file = BlockFile(remote, name, info, part)
    try:
        return file.fetch_rest()
    finally:
        file.close()


def _append_rest(remote: Folder, name: str, part: Path, info: FileInfo) -> int:
    start, copied = part.stat().st_size if part.exists() else 0, 0
    if start < info.size_bytes:
        try:
            with open(part, "ab") as file:
                for chunk in remote.chunks(name, start):
                    file.write(chunk)
                    copied += len(chunk)
        except FileNotFoundError:
            raise missing_file_error(name) from None
    return copied


def read_replica_pointer(folder: VersionedFolder[P], *, verify: bool) -> P:
    """The replica's pointer; an empty one if it is damaged and `verify` is set, so that it is fetched again."""
    try:
        return read_pointer(folder)
    except DamagedError:
        if not verify:
            raise
        empty: P = folder.pointer_type()
        return empty
