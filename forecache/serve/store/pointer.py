"""The pointer: one small file that says which version is served, replaced in one step, and a copy of it."""

import secrets
from dataclasses import asdict, dataclass, replace

from forecache.base.errors import DamagedError
from forecache.base.files import write_durably
from forecache.serve.store.checksummed_json import dump_with_checksum, load_with_checksum
from forecache.serve.store.layout import StoreLayout

_MOVES = 100


@dataclass(frozen=True)
class Pointer:
    """The served version of a store.

    Attributes:
        store: The store's identity, random; "" before the first publish. A store that was removed and published anew
            counts its versions from 1 again: version numbers of different stores are not comparable.
        current: The version that was last published or rolled back to, None before the first.
        pinned: The pinned version, which is served instead; None: none.
        last: The highest version number ever used; numbers are never used twice.
        generation: Counts the moves of the pointer.
        moves: Random ids of its last moves, in any installation, the newest last: the history of this state.
    """

    store: str = ""
    current: int | None = None
    pinned: int | None = None
    last: int = 0
    generation: int = 0
    moves: str = ""

    @property
    def serving(self) -> int | None:
        return self.current if self.pinned is None else self.pinned

    def advance(self, **changes: object) -> "Pointer":
        """The pointer after one more move."""
        moves = " ".join([*self.moves.split()[1 - _MOVES :], secrets.token_hex(4)])
        return replace(self, generation=self.generation + 1, moves=moves, **changes)  # type: ignore[arg-type]

    def descends_from(self, other: "Pointer") -> bool:
        """Return whether this pointer is the other one or a later state of it, and so discards none of its moves."""
        last = other.moves.split()[-1:]
        return last[0] in self.moves.split() if last else self.store == other.store

    def to_json(self) -> bytes:
        return dump_with_checksum(asdict(self))


def new_store_id() -> str:
    """128 random bits as hex."""
    return secrets.token_hex(16)


def pointer_from_json(content: bytes, *, what: str = "The pointer of a remote") -> Pointer:
    """Read a pointer from its JSON; raises as `load_with_checksum`."""
    return Pointer(**load_with_checksum(content, what=what))


def read_pointer(layout: StoreLayout) -> Pointer:
    """The pointer, or its copy if the pointer is damaged or missing; an empty one before the first publish.

    Quarantined versions are skipped in the copy: a rollback may have been killed after it quarantined a version and
    before it wrote the copy.

    Raises:
        DamagedError: Both are damaged, or an older Forecache wrote it.
    """
    try:
        return pointer_from_json(layout.pointer.read_bytes(), what=f"The file {layout.pointer}")
    except (FileNotFoundError, DamagedError) as problem:
        try:
            copy = pointer_from_json(layout.pointer_copy.read_bytes(), what=f"The file {layout.pointer_copy}")
        except FileNotFoundError:
            if isinstance(problem, FileNotFoundError):
                return Pointer()
            raise problem from None  # as an older Forecache left it
        except DamagedError:
            raise DamagedError(
                f"The pointer of {layout.root.name} and its copy in {layout.root} are damaged.",
                remedy="Remove the pipeline's store folder and publish again; on a replica, `forecache pull --verify`.",
            ) from None
        return _skip_quarantined(layout, copy)


def _skip_quarantined(layout: StoreLayout, pointer: Pointer) -> Pointer:
    """Replace a quarantined current version by the newest good one before it, and drop a quarantined pin."""
    pinned, current = pointer.pinned, pointer.current
    if pinned is not None and layout.quarantine(pinned).exists():
        pinned = None
    if current is not None and layout.quarantine(current).exists():
        earlier = [number for number in layout.version_numbers() if number < current]
        current = max((number for number in earlier if not layout.quarantine(number).exists()), default=None)
    return replace(pointer, current=current, pinned=pinned)


def write_pointer(layout: StoreLayout, pointer: Pointer) -> None:
    """Move the pointer; the caller holds the store's lock.

    The copy is written first: after a kill between the two writes, it is never older than the pointer.
    """
    write_durably(layout.pointer_copy, pointer.to_json())
    write_durably(layout.pointer, pointer.to_json())


def repair_pointer(layout: StoreLayout) -> None:
    """Write pointer or copy again if one is missing, damaged or older; the caller holds the store's lock."""
    try:
        pointer = read_pointer(layout)
    except DamagedError:
        return  # both are damaged: a pull with --verify, or an operator, has to replace them
    if pointer != Pointer() and _files_differ(layout, pointer):
        write_pointer(layout, pointer)


def is_copy_equal(layout: StoreLayout) -> bool:
    """Return whether pointer and copy are equal, also before the first publish.

    Raises:
        DamagedError: Both are damaged.
    """
    pointer = read_pointer(layout)
    return pointer == Pointer() or not _files_differ(layout, pointer)


def _files_differ(layout: StoreLayout, pointer: Pointer) -> bool:
    content = pointer.to_json()
    paths = (layout.pointer, layout.pointer_copy)
    return any(not path.is_file() or path.read_bytes() != content for path in paths)
