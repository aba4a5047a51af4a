"""The pointer: one small file that says which version is served, replaced in one step."""

import json
from dataclasses import asdict, dataclass

from forecache.store.layout import Layout, write_durably


@dataclass(frozen=True)
class Pointer:
    """What the store serves.

    Attributes:
        current: The version that was published or rolled back to last, None before the first.
        pinned: The version that is served instead while it is pinned.
        last: The highest version number ever given out; numbers are never used twice.
        generation: Counts the moves of the pointer.
    """

    current: int | None = None
    pinned: int | None = None
    last: int = 0
    generation: int = 0

    @property
    def serving(self) -> int | None:
        return self.current if self.pinned is None else self.pinned

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


def pointer_from_json(content: bytes) -> Pointer:
    return Pointer(**json.loads(content))


def read_pointer(layout: Layout) -> Pointer:
    """The pointer; an empty one before the first publish."""
    try:
        return pointer_from_json(layout.pointer.read_bytes())
    except FileNotFoundError:
        return Pointer()


def write_pointer(layout: Layout, pointer: Pointer) -> None:
    """Move the pointer; the caller holds the store's lock."""
    write_durably(layout.pointer, pointer.to_json())
