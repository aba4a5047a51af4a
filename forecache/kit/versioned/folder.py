"""A folder of immutable numbered versions and the pointer to the served one: paths, kinds, and JSON with a checksum.

<folder>/
    CURRENT                    the pointer: which version is served (replaced by rename)
    CURRENT.copy               its copy, written before it, read if the pointer is damaged or missing
    versions/00000017...       a version, never changed; how this folder and its files are named depends on the kind
    versions/00000017.lease    held with a shared flock by every process that has the version open; if a version is a
                               folder, that is held
    staging/<name>/            files that are being written; garbage once their process has ended
    LOCK                       held with an exclusive flock by the process that changes the folder
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import xxhash

from forecache.base.errors import DamagedError

_CHECKSUM = "checksum"


def dump_with_checksum(data: dict[str, Any]) -> bytes:
    """The JSON of an object with its checksum as the last member."""
    return json.dumps({**data, _CHECKSUM: _checksum(data)}, indent=1).encode() + b"\n"


def load_with_checksum(content: bytes, *, what: str) -> dict[str, Any]:
    """Read what `dump_with_checksum` wrote to the file `what`; raises DamagedError if it differs or has no checksum."""
    try:
        data = json.loads(content)
        seal = data.pop(_CHECKSUM, None)
    except (ValueError, AttributeError, TypeError, RecursionError):  # no JSON, or no object
        raise damaged_error(what) from None
    if seal is None:
        raise DamagedError(
            f"{what} has no checksum: an older Forecache wrote it, or it is damaged.",
            remedy="Remove the pipeline's store folder and publish again; on a replica, pull again.",
        )
    if seal != _checksum(data):
        raise damaged_error(what)
    return dict(data)


def damaged_error(what: str) -> DamagedError:
    return DamagedError(f"{what} is damaged: its checksum does not match its bytes.")


def _checksum(data: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(data, sort_keys=True).encode())


P = TypeVar("P", bound="VersionPointer")


class VersionPointer:
    """The served version of a folder. Each kind is a frozen dataclass in which every field has a default."""

    current: int | None  # last written or rolled back to; None before the first
    pinned: int | None = None  # served instead of the current one
    last: int  # the highest number ever used; none is used twice
    generation: int  # counts the moves of the pointer

    @property
    def serving(self) -> int | None:
        """The version that readers serve: the pinned one, else the current one."""
        return self.current if self.pinned is None else self.pinned

    def to_json(self) -> bytes:
        return dump_with_checksum(asdict(self))  # type: ignore[call-overload]  # each kind is a dataclass

    @classmethod
    def from_json(cls: type[P], content: bytes, *, what: str = "The pointer of a remote") -> P:
        """Decode a pointer; raises DamagedError with the file `what` if its checksum does not match."""
        read: dict[str, Any] = load_with_checksum(content, what=what)
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in read.items()})


class PathBelow:
    """A path below the root of a versioned folder."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, folder: "VersionedFolder[Any]", kind: type) -> Path:
        return folder.root / self._name


@dataclass(frozen=True)
class VersionedFolder(Generic[P]):
    """Paths of one folder. A kind of folders says how its versions are named, blocked and removed."""

    root: Path
    pointer_type: ClassVar[Any]  # a `type[P]`
    locked_text: ClassVar[str]  # for messages, with placeholders `name` and `holder`
    pointer_text: ClassVar[str]  # the pointer in messages
    pointer_remedy: ClassVar[str]  # for a pointer that is damaged with its copy
    lock_wait_s: ClassVar[float] = 0.0

    pointer = PathBelow("CURRENT")
    pointer_copy = PathBelow("CURRENT.copy")
    lock = PathBelow("LOCK")
    versions = PathBelow("versions")
    staging = PathBelow("staging")

    @property
    def name(self) -> str:
        return self.root.name

    def lease(self, number: int) -> Path:
        return self.versions / f"{number:08d}.lease"

    def create(self) -> None:
        for folder in (self.versions, self.staging):
            folder.mkdir(parents=True, exist_ok=True)

    def numbers(self) -> list[int]:
        raise NotImplementedError

    def has_version(self, number: int) -> bool:
        return number in self.numbers()

    def is_blocked(self, number: int, pointer: P) -> bool:
        """Return whether a version was rolled back, so that it does not become current again by itself."""
        raise NotImplementedError

    def remove_version(self, number: int) -> None:
        """Remove a version that nobody has open; the caller holds the lock."""
        raise NotImplementedError
