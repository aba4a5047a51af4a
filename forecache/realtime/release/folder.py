"""The folder of a model's releases, the pointer to the current one, and finding, reading and verifying releases.

<store>/.realtime/<name>/      a versioned folder (see `forecache.kit.versioned.folder`) with:
    releases/00000003/         one release, never changed: release.json, model.bin, warmup.json, code/...
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import xxhash

from forecache.base.errors import NotFoundError
from forecache.base.settings import Settings
from forecache.kit.versioned.checksummed_json import damaged_error
from forecache.kit.versioned.folder import VersionedFolder, VersionPointer
from forecache.kit.versioned.verify import ReadPace, VerifyResult, verify_file, verify_versions
from forecache.realtime.release.format import RELEASE_FILE, Release, ReleaseFile, release_from_json
from forecache.realtime.release.released_models import REALTIME


@dataclass(frozen=True)
class ReleasePointer(VersionPointer):
    """The pointer to the current release; see `VersionPointer`.

    Attributes:
        bad: Releases that were rolled back; they do not become current again unless a person asks for it.
    """

    current: int | None = None
    last: int = 0
    bad: tuple[int, ...] = ()
    generation: int = 0
    history: str = ""  # random identity of the state in the lake that it is a copy of


@dataclass(frozen=True)
class ReleaseFolder(VersionedFolder[ReleasePointer]):
    """Paths of one real-time model's releases."""

    pointer_type = ReleasePointer
    locked_text = "The releases of {name} are being changed by {holder}."
    pointer_text = "The pointer of the releases of {name}"
    pointer_remedy = "Remove both and run `forecache release {name}`; on a replica, run `forecache pull --verify`."
    lock_wait_s = 30.0

    @property
    def versions(self) -> Path:
        return self.root / "releases"

    def lease(self, number: int) -> Path:
        return self.release(number)  # the folder itself, which can be locked like a file

    def release(self, number: int) -> Path:
        return self.versions / f"{number:08d}"

    def numbers(self) -> list[int]:
        found = self.versions.iterdir() if self.versions.is_dir() else ()
        return sorted(int(path.name) for path in found if path.name.isdigit())

    def is_quarantined(self, number: int, pointer: ReleasePointer) -> bool:
        return number in pointer.bad

    def remove_version(self, number: int) -> None:
        gone = self.staging / f"retired-{number}"
        os.rename(self.release(number), gone)  # so that no release is ever partly removed
        shutil.rmtree(gone, ignore_errors=True)


def open_releases(settings: Settings, name: str) -> ReleaseFolder:
    """Return the release folder of a real-time model, which need not exist yet."""
    return ReleaseFolder(settings.store_path / REALTIME / name)


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
    """Read the files of a release by name, and verify their checksums.

    Raises:
        DamagedError: A file is missing or has changed.
    """
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


def verify_releases(settings: Settings, names: Sequence[str], *, pace: ReadPace | None = None) -> list[VerifyResult]:
    """Verify the pointer and every release of these real-time models."""
    return [item for name in names for item in _verify_folder(settings, name, pace)]


def _verify_folder(settings: Settings, name: str, pace: ReadPace | None) -> list[VerifyResult]:
    folder = open_releases(settings, name)

    def verify(number: int) -> tuple[int, int]:
        files = read_release(folder, number).files
        return sum(verify_file(folder.release(number) / file, info, pace=pace) for file, info in files.items()), 0

    return verify_versions(folder, verify)
