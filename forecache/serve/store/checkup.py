"""Verification of stores on disk: every byte of every retained version, and on demand every row."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from forecache.base.errors import CheckError, ConflictError, DamagedError, NotFoundError, UnavailableError
from forecache.base.names import NAME
from forecache.base.settings import Settings
from forecache.serve.store import content_hash as hashing
from forecache.serve.store.integrity import ReadPace, verify_filter, verify_segment
from forecache.serve.store.locks import is_being_changed, keep_version
from forecache.serve.store.manifest import Manifest
from forecache.serve.store.pointer import is_copy_equal, pointer_from_json
from forecache.serve.store.read.snapshot import Snapshot
from forecache.serve.store.store import Store, open_store

_BLOCK_KEYS = 1 << 13


@dataclass(frozen=True)
class VerifyResult:
    """The result for a version, or for the pointer if `version` is None.

    Attributes:
        problem: The damage, in a sentence; "" if there is none.
        read_bytes: Bytes read for it; files shared with an older version are read once.
        rows: Keys whose entries were read and compared, if `content` was set.
    """

    pipeline: str
    version: int | None
    state: tuple[str, ...]
    problem: str
    read_bytes: int = 0
    rows: int = 0


def verify_store(store: Store, *, content: bool = False, pace: ReadPace | None = None) -> list[VerifyResult]:
    """Verify the pointer, and every version of a store, the oldest first.

    No version is removed while it is read; one that is removed before is left out.

    Args:
        content: Also look up every key through the reader's code, and compare row count and content hash with the
            manifest's. An incremental publish reads back only the keys that it changed.
    """
    found = [VerifyResult(store.pipeline, None, (), pointer_problem(store))]
    try:
        store.pointer()
    except UnavailableError:
        return found  # without it nobody knows which versions belong to this store
    known: dict[str, str] = {}
    for number in sorted({*store.version_numbers(), *_required_versions(store)}):
        with keep_version(store.layout, number) as is_there:
            if is_there or number in _required_versions(store):
                found.append(_verify_version(store, number, known, content=content, pace=pace))
    return found


def _required_versions(store: Store) -> set[int]:
    """The versions that must exist."""
    pointer = store.pointer()
    return {number for number in (pointer.current, pointer.pinned) if number is not None}


def _verify_version(
    store: Store, number: int, known: dict[str, str], *, content: bool, pace: ReadPace | None
) -> VerifyResult:
    state = store.state(number)
    read_bytes = rows = 0
    problem = ""
    try:
        read_bytes = _verify_files(store, store.manifest(number), known, pace)
        if content:
            with store.snapshot(number) as snapshot:
                rows = _verify_content(snapshot)
    except (UnavailableError, NotFoundError, ConflictError) as error:
        problem = error.message
    return VerifyResult(store.pipeline, number, state, problem, read_bytes, rows)


def verify_stores(
    settings: Settings,
    names: Sequence[str] = (),
    *,
    content: bool = False,
    pace: ReadPace | None = None,
) -> list[VerifyResult]:
    """`verify_store` of the named pipelines, or of every store on this machine.

    Raises:
        NotFoundError: There is no store of that name.
        DamagedStoresError: Something is damaged; its `found` is the whole list.
    """
    here = {store.pipeline: store for store in list_local_stores(settings)}
    for name in names:
        if name not in here:
            raise NotFoundError(f"There is no store of {name} in {settings.store_path}.", remedy="Publish it first.")
    found = [
        item
        for store in (here[name] for name in names or here)
        for item in verify_store(store, content=content, pace=pace)
    ]
    damaged = [item for item in found if item.problem]
    if damaged:
        raise DamagedStoresError(found)
    return found


def list_local_stores(settings: Settings) -> list[Store]:
    """Every store on this machine, in alphabetical order."""
    folder = settings.store_path
    found = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    names = sorted(filter(NAME.fullmatch, found))
    return [open_store(settings, name) for name in names]


class DamagedStoresError(CheckError):
    """Raised by `verify_stores` if something is damaged; has all results."""

    def __init__(self, found: list[VerifyResult]) -> None:
        self.found = found
        damaged = [item for item in found if item.problem]
        named = ", ".join(f"{item.pipeline} {'pointer' if item.version is None else item.version}" for item in damaged)
        super().__init__(
            f"{len(damaged)} of {len(found)} things in the stores are damaged: {named}. {damaged[0].problem}",
            remedy=" ".join(dict.fromkeys(_remedy(item) for item in damaged)),
        )


def _remedy(item: VerifyResult) -> str:
    if item.version is None or "current" in item.state:
        return "Publish again with --full, or release again; on a replica, `forecache pull --verify`."
    if "pinned" in item.state:
        return f"Serve the current version with `forecache unpin {item.pipeline}`."
    return "Versions that are not current are not served, and later publishes remove them; do not roll back to them."


def pointer_problem(store: Store) -> str:
    """The problem of the pointer or its copy, in a sentence; "" if both are whole and equal."""
    if not store.layout.pointer.exists() and not store.layout.pointer_copy.exists() and not store.version_numbers():
        return ""  # nothing was published yet
    for path in (store.layout.pointer, store.layout.pointer_copy):
        try:
            pointer_from_json(path.read_bytes(), what=f"The file {path}")
        except FileNotFoundError:
            return f"The file {path} is missing."
        except UnavailableError as error:
            return error.message
    # Compared twice: a move in progress at the first time has ended by the second, or holds the lock in between.
    if not is_copy_equal(store.layout) and not is_being_changed(store.layout) and not is_copy_equal(store.layout):
        return f"The file {store.layout.pointer_copy} is not a copy of {store.layout.pointer.name}."
    return ""


def _verify_files(store: Store, manifest: Manifest, known: dict[str, str], pace: ReadPace | None) -> int:
    """Read the segments that no older version shares; remember damaged ones for versions that share them."""
    fresh = [segment for segment in manifest.segments if segment.id not in known]
    read_bytes = 0
    for segment in fresh:
        known[segment.id] = ""
        try:
            read_bytes += verify_segment(store.layout, segment, pace=pace)
        except DamagedError as error:
            known[segment.id] = error.message
    problems = [known[segment.id] for segment in manifest.segments if known[segment.id]]
    if problems:
        raise DamagedError(problems[0])
    return read_bytes + verify_filter(store.layout, manifest, pace=pace)


def _verify_content(snapshot: Snapshot) -> int:
    """Look up every key of the segments' pages; return their number.

    Raises:
        DamagedError: Row count or content hash are not those of the manifest.
    """
    manifest = snapshot.manifest
    rows = total = 0
    for keys in _key_blocks(snapshot):
        pairs = zip(keys, snapshot.get_entries(keys), strict=True)
        there = [(key, entry) for key, entry in pairs if entry is not None]
        rows += len(there)
        total = hashing.add(total, hashing.content_sum(there))
    if (rows, hashing.to_hex(total)) != (manifest.rows, manifest.content_hash):
        raise DamagedError(
            f"Version {manifest.version} of {manifest.pipeline} reads {rows:,} rows with the content hash "
            f"{hashing.to_hex(total)} where {manifest.rows:,} with {manifest.content_hash} were published."
        )
    return rows


def _key_blocks(snapshot: Snapshot) -> Iterator[list[bytes]]:
    keys = (key for key, _ in snapshot.items())
    while block := list(islice(keys, _BLOCK_KEYS)):
        yield block
