"""A folder of immutable numbered versions and the pointer to the served one: paths, and what differs by kind.

<folder>/
    CURRENT                    the pointer: which version is served (replaced by rename)
    CURRENT.copy               its copy, written before it, read if the pointer is damaged or missing
    versions/00000017...       a version, never changed; how this folder and its files are named depends on the kind
    versions/00000017.lease    held with a shared flock by every process that has the version open; if a version is a
                               folder, that is held
    staging/<name>/            files that are being written; garbage once their process has ended
    LOCK                       held with an exclusive flock by the process that changes the folder
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from forecache.kit.versioned.checksummed_json import dump_with_checksum, load_with_checksum

P = TypeVar("P", bound="VersionPointer")


class VersionPointer:
    """The served version of a folder. Each kind is a frozen dataclass in which every field has a default.

    Attributes:
        current: The version that was last written or rolled back to, None before the first.
        pinned: The pinned version, which is served instead; None: none.
        last: The highest version number ever used; numbers are never used twice.
        generation: Counts the moves of the pointer.
    """

    current: int | None
    pinned: int | None = None
    last: int
    generation: int

    @property
    def serving(self) -> int | None:
        return self.current if self.pinned is None else self.pinned

    def to_json(self) -> bytes:
        """The pointer as JSON with a checksum."""
        return dump_with_checksum(asdict(self))  # type: ignore[call-overload]  # each kind is a dataclass

    @classmethod
    def from_json(cls: type[P], content: bytes, *, what: str = "The pointer of a remote") -> P:
        """Decode a pointer; raises DamagedError with the file `what` if its checksum does not match."""
        read: dict[str, Any] = load_with_checksum(content, what=what)
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in read.items()})


@dataclass(frozen=True)
class VersionedFolder(Generic[P]):
    """Paths of one folder. A kind of folders says how its versions are named, quarantined and removed.

    Attributes:
        pointer_type: The class of its pointers, a `type[P]`.
        locked_text: A sentence for messages, with the placeholders `name` and `holder`, a process that changes it.
        pointer_text, pointer_remedy: The pointer in messages, and the remedy if it and its copy are damaged.
        lock_wait_s: How long a process waits for another one that changes the folder.
    """

    root: Path
    pointer_type: ClassVar[Any]
    locked_text: ClassVar[str]
    pointer_text: ClassVar[str]
    pointer_remedy: ClassVar[str]
    lock_wait_s: ClassVar[float] = 0.0

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
    def versions(self) -> Path:
        return self.root / "versions"

    @property
    def staging(self) -> Path:
        return self.root / "staging"

    def lease(self, number: int) -> Path:
        return self.versions / f"{number:08d}.lease"

    def create(self) -> None:
        for folder in (self.versions, self.staging):
            folder.mkdir(parents=True, exist_ok=True)

    def numbers(self) -> list[int]:
        """The numbers of the versions that exist, ascending."""
        raise NotImplementedError

    def has_version(self, number: int) -> bool:
        return number in self.numbers()

    def is_quarantined(self, number: int, pointer: P) -> bool:
        """Return whether a version was rolled back, so that it does not become current again by itself."""
        raise NotImplementedError

    def remove_version(self, number: int) -> None:
        """Remove a version that nobody has open; the caller holds the lock."""
        raise NotImplementedError
