"""The pointer of a store: which version is served (`Pointer.serving`), and how it has moved."""

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from forecache.kit.versioned.folder import VersionPointer

_MOVES = 100


@dataclass(frozen=True)
class Pointer(VersionPointer):
    """The served version of a store; see `VersionPointer`.

    `store` is the store's random identity, "" before the first publish. A store that was removed and published anew
    counts its versions from 1 again: version numbers of different stores are not comparable.

    A store with a remote has its pointer there; the one on a machine's disk is a copy that follows it.
    """

    store: str = ""
    current: int | None = None
    pinned: int | None = None
    last: int = 0
    generation: int = 0
    moves: str = ""  # random ids of the last moves, on any machine, the newest last
    bad: Mapping[str, str] = field(default_factory=dict)  # reasons of the blocked versions, by number
    versions: Mapping[str, float] = field(default_factory=dict)
    """The versions in the remote by number, and the Unix time since when each is retired; 0: it is retained."""

    @property
    def retained_versions(self) -> list[int]:
        """The versions that the remote retains, ascending."""
        return sorted(int(number) for number, since in self.versions.items() if not since)

    def block(self, reasons: Mapping[int, str]) -> "Pointer":
        """The pointer with these versions blocked, too."""
        return replace(self, bad={**self.bad, **{str(number): reason for number, reason in reasons.items()}})

    def unblock(self, numbers: Collection[int]) -> "Pointer":
        """The pointer with these versions unblocked."""
        return replace(self, bad={number: reason for number, reason in self.bad.items() if int(number) not in numbers})

    def advance(self, **changes: object) -> "Pointer":
        """The pointer after one more move."""
        moves = " ".join([*self.moves.split()[1 - _MOVES :], secrets.token_hex(4)])
        return replace(self, generation=self.generation + 1, moves=moves, **changes)  # type: ignore[arg-type]

    def descends_from(self, other: "Pointer") -> bool:
        """Return whether this pointer is the other one or a later state of it, and so discards none of its moves."""
        theirs, mine = other.moves.split(), self.moves.split()
        if not theirs:
            return self.store == other.store
        if theirs[-1] in mine:
            return True
        # After so many moves the other's are forgotten; one that is as many ahead of it has gone on by itself.
        is_full = len(mine) >= _MOVES and self.generation - other.generation >= _MOVES // 2
        return self.store == other.store and is_full and not set(mine) & set(theirs)


def new_store_id() -> str:
    return secrets.token_hex(16)
