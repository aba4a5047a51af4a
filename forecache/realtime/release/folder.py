"""The folder of a model's releases, the pointer to the current one, and finding and reading releases.

<store>/.realtime/<name>/
    CURRENT                    the pointer, replaced in one step
    CURRENT.copy               its copy, written before it, read if the pointer is damaged or missing
    LOCK                       held with an exclusive flock by whoever writes
    releases/00000003/         one release, never changed: release.json, model.bin, warmup.json, code/...
    staging/<token>/           a release that is being written; garbage once its writer is gone
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import xxhash

from forecache.base.errors import DamagedError, NotFoundError
from forecache.base.files import write_durably
from forecache.base.settings import Settings
from forecache.realtime.release.format import RELEASE_FILE, Release, ReleaseFile, release_from_json
from forecache.realtime.release.released_models import REALTIME
from forecache.serve.store.checksummed_json import damaged_error, dump_with_checksum, load_with_checksum


@dataclass(frozen=True)
class ReleasePointer:
    """The pointer to the current release.

    Attributes:
        current: Number of the current release; None before the first.
        last: The highest number ever given; numbers are never used twice.
        bad: Releases that were rolled back; they do not become current again unless a person asks for it.
        generation: Counts the moves of the pointer.
        history: Random identity of the state in the lake that it is a copy of.
    """

    current: int | None = None
    last: int = 0
    bad: tuple[int, ...] = ()
    generation: int = 0
    history: str = ""


@dataclass(frozen=True)
class ReleaseFolder:
    """Paths of one real-time model's releases."""

    root: Path

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def pointer(self) -> Path:
        return self.root / "CURRENT"

    @property
    def pointer_copy(self) -> Path:
        return self.root / "CURRENT.copy"

    @property
    def lock(self) -> Path:
        return self.root / "LOCK"

    @property
    def releases(self) -> Path:
        return self.root / "releases"

    @property
    def staging(self) -> Path:
        return self.root / "staging"

    def release(self, number: int) -> Path:
        return self.releases / f"{number:08d}"

    def numbers(self) -> list[int]:
        """List the numbers of the existing releases, ascending."""
        found = self.releases.iterdir() if self.releases.is_dir() else ()
        return sorted(int(path.name) for path in found if path.name.isdigit())


def open_releases(settings: Settings, name: str) -> ReleaseFolder:
    """Return the release folder of a real-time model, which need not exist yet."""
    return ReleaseFolder(settings.store_path / REALTIME / name)


def read_current(folder: ReleaseFolder) -> ReleasePointer:
    """Read the pointer, or its copy if the pointer is damaged or missing; an empty one before the first release.

    Raises:
        DamagedError: Both are damaged.
    """
    there = [path for path in (folder.pointer, folder.pointer_copy) if path.exists()]
    for path in there:
        try:
            return pointer_from_json(path.read_bytes(), what=f"The file {path}")
        except DamagedError:
            continue
    if not there:
        return ReleasePointer()
    raise DamagedError(
        f"The pointer of the releases of {folder.name} is damaged: {' and '.join(map(str, there))}.",
        remedy=f"Remove it and run `forecache release {folder.name}`; on a replica, run `forecache pull --verify`.",
    )


def pointer_from_json(content: bytes, *, what: str) -> ReleasePointer:
    """Decode a pointer; raises what `unsealed` raises."""
    data = load_with_checksum(content, what=what)
    return ReleasePointer(**{**data, "bad": tuple(data["bad"])})


def pointer_to_json(pointer: ReleasePointer) -> bytes:
    return dump_with_checksum(asdict(pointer))


def write_current(folder: ReleaseFolder, pointer: ReleasePointer) -> None:
    """Move the pointer; the caller holds the lock.

    The copy is written first: a process killed between the two writes leaves no copy that names a rolled-back release.
    """
    write_durably(folder.pointer_copy, pointer_to_json(pointer))
    write_durably(folder.pointer, pointer_to_json(pointer))


def repair_pointer(folder: ReleaseFolder) -> None:
    """Write what of pointer and copy is missing, damaged or older; the caller holds the lock.

    A writer may have been killed between the two. The pointer is the truth if it is whole, else the copy is.
    """
    try:
        pointer = read_current(folder)
    except DamagedError:
        return  # both are: a release or a pull that verifies replaces them
    if pointer == ReleasePointer():
        return
    content = pointer_to_json(pointer)
    for path in (folder.pointer_copy, folder.pointer):
        if not path.is_file() or path.read_bytes() != content:
            write_durably(path, content)


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


def previous_numbers(folder: ReleaseFolder, pointer: ReleasePointer) -> Iterator[int]:
    """Numbers of the releases before the current one that were not rolled back, the newest first."""
    for number in reversed(folder.numbers()):
        if number < (pointer.current or 0) and number not in pointer.bad:
            yield number
