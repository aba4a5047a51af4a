"""The folder of a model's releases, the pointer to the current one, and finding, reading and verifying releases.

<store>/.realtime/<name>/      a versioned folder (see `forecache.kit.versioned.folder`) with:
    releases/00000003/         one release, never changed: release.json, model.bin, warmup.json, code/...
"""

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import xxhash

from forecache.base.errors import DamagedError, NotFoundError
from forecache.base.files import move_durably, sync
from forecache.base.settings import Settings
from forecache.base.steps import begin_work, is_looking, release_step
from forecache.kit.versioned.folder import (
    PathBelow,
    VersionedFolder,
    VersionPointer,
    damaged_error,
)
from forecache.kit.versioned.pointer import lock_versions, read_pointer
from forecache.realtime.release.format import (
    BINS_FILE,
    CODE_FOLDER,
    MODEL_FILE,
    RELEASE_FILE,
    WARMUP_FILE,
    Release,
    ReleaseFile,
    release_from_json,
)
from forecache.serve.store.layout import REALTIME


@dataclass(frozen=True)
class ReleasePointer(VersionPointer):
    """The pointer to the current release; see `VersionPointer`."""

    current: int | None = None
    last: int = 0
    bad: tuple[int, ...] = ()  # rolled back: current again only if a person asks for it
    generation: int = 0
    history: str = ""  # random identity of the state in the lake that it is a copy of


@dataclass(frozen=True)
class ReleaseFolder(VersionedFolder[ReleasePointer]):
    pointer_type = ReleasePointer
    locked_text = "The releases of {name} are being changed by {holder}."
    pointer_text = "The pointer of the releases of {name}"
    pointer_remedy = (
        "Remove both and run `forecache release build {name}`; on a replica, run `forecache store pull --verify`."
    )
    lock_wait_s = 30.0

    versions = PathBelow("releases")

    def lease(self, number: int) -> Path:
        return self.release(number)  # the folder itself, which can be locked like a file

    def release(self, number: int) -> Path:
        return self.versions / f"{number:08d}"

    def numbers(self) -> list[int]:
        found = self.versions.iterdir() if self.versions.is_dir() else ()
        return sorted(int(path.name) for path in found if path.name.isdigit())

    def is_blocked(self, number: int, pointer: ReleasePointer) -> bool:
        return number in pointer.bad

    def remove_version(self, number: int) -> None:
        gone = self.staging / f"retired-{number}"
        os.rename(self.release(number), gone)  # so that no release is ever partly removed
        shutil.rmtree(gone, ignore_errors=True)


def open_releases(settings: Settings, name: str) -> ReleaseFolder:
    """Return the release folder of a real-time model, which need not exist yet."""
    return ReleaseFolder(settings.store_path / REALTIME / name)


def find_pointer(folder: ReleaseFolder) -> ReleasePointer:
    """Read the pointer here; a damaged one counts as empty."""
    try:
        return read_pointer(folder)
    except DamagedError:
        return ReleasePointer()


def read_release(folder: ReleaseFolder, number: int) -> Release:
    """Read the description of a release.

    Raises:
        NotFoundError: There is no such release here.
        DamagedError: The description is damaged or missing.
    """
    file = folder.release(number) / RELEASE_FILE
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        if file.parent.is_dir():
            raise damaged_error(f"The file {file}") from None
        listed = ", ".join(map(str, folder.numbers())) or "none"
        raise NotFoundError(
            f"There is no release {number} of {folder.name}.", remedy=f"Those that are here: {listed}."
        ) from None
    return release_from_json(content, what=f"The file {file}")


def read_files(place: Path, files: Mapping[str, ReleaseFile]) -> dict[str, bytes]:
    """Read the files of a release by name, and verify their checksums; raises `DamagedError`."""
    found = {}
    for name, said in files.items():
        try:
            content = (place / name).read_bytes()
        except FileNotFoundError:
            raise damaged_error(f"The file {place / name}") from None
        if release_file_of(content) != said:
            raise damaged_error(f"The file {place / name}")
        found[name] = content
    return found


def release_file_of(content: bytes) -> ReleaseFile:
    return ReleaseFile(len(content), xxhash.xxh3_128_hexdigest(content))


KEEP = 10
"""Number of releases to keep; the current one and a candidate are kept, too, if they are older.

A reader holds the served one in memory; its worker processes read it again."""


def write_release(
    folder: ReleaseFolder,
    release: Release,
    *,
    number: int,
    model: bytes,
    code: Mapping[str, bytes],
    warmup: Sequence[bytes] = (),
    bins: bytes | None = None,
) -> Release:
    """Write the files of a release, which answers no requests yet; the caller holds the lock.

    After a kill at any moment, of the process or the machine, the release is here whole or not at all.

    Args:
        number: From the state in the lake, which gives none twice.
    """
    files = {f"{CODE_FOLDER}/{path}": content for path, content in code.items()}
    files |= {MODEL_FILE: model, WARMUP_FILE: json.dumps([each.decode() for each in warmup]).encode()}
    files |= {} if bins is None else {BINS_FILE: bins}
    written = replace(release, number=number, files={name: release_file_of(content) for name, content in files.items()})
    complete = stage_files(folder, {**files, RELEASE_FILE: written.to_json()})
    release_step("staged")
    move_durably(complete, folder.release(number))
    release_step("moved")
    return written


@contextmanager
def lock_releases(folder: ReleaseFolder, *, action: str) -> Iterator[None]:
    """Hold the lock of a model's releases, after cleaning up after a killed writer; raises `ConflictError`."""

    with lock_versions(folder, action=action):
        for left in () if is_looking() else folder.staging.iterdir():
            shutil.rmtree(left, ignore_errors=True)
        release_step("locked")
        yield


def stage_files(folder: ReleaseFolder, files: Mapping[str, bytes]) -> Path:
    """Write a staging folder with these files, synced to the disk."""
    begin_work(f"writing a release of {folder.name}")
    place = folder.staging / secrets.token_hex(8)
    for name, content in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        sync(path)
    for below in {parent for name in files for parent in (place / name).parents if place in (parent, *parent.parents)}:
        sync(below)
    return place
