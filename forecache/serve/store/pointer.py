"""The pointer of a store: which version is served (`Pointer.serving`), and how it has moved."""

import secrets
from dataclasses import dataclass, replace

from forecache.kit.versioned.folder import VersionPointer

_MOVES = 100


@dataclass(frozen=True)
class Pointer(VersionPointer):
    """The served version of a store; see `VersionPointer`.

    `store` is the store's random identity, "" before the first publish. A store that was removed and published anew
    counts its versions from 1 again: version numbers of different stores are not comparable.
    """

    store: str = ""
    current: int | None = None
    pinned: int | None = None
    last: int = 0
    generation: int = 0
    moves: str = ""  # random ids of the last moves, in any installation, the newest last

    def advance(self, **changes: object) -> "Pointer":
        """The pointer after one more move."""
        moves = " ".join([*self.moves.split()[1 - _MOVES :], secrets.token_hex(4)])
        return replace(self, generation=self.generation + 1, moves=moves, **changes)  # type: ignore[arg-type]

    def descends_from(self, other: "Pointer") -> bool:
        """Return whether this pointer is the other one or a later state of it, and so discards none of its moves."""
        last = other.moves.split()[-1:]
        return last[0] in self.moves.split() if last else self.store == other.store


def new_store_id() -> str:
    return secrets.token_hex(16)
