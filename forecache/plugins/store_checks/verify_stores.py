"""Verification of stores and releases on disk: every byte of every retained version, and on demand every row."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from forecache.base.errors import CheckError, ConflictError, DamagedError, NotFoundError, UnavailableError
from forecache.base.settings import Settings
from forecache.cli.base import Finding
from forecache.cli.output import size
from forecache.kit.versioned.folder import P, VersionedFolder
from forecache.kit.versioned.leases import keep_version
from forecache.kit.versioned.pointer import pointer_problem, read_pointer
from forecache.kit.versioned.verify import ReadPace, verify_file, version_state
from forecache.realtime.release.folder import open_releases, read_release
from forecache.serve.store import content_hash as hashing
from forecache.serve.store.integrity import verify_filter, verify_segment
from forecache.serve.store.manifest import Manifest
from forecache.serve.store.read.snapshot import Snapshot
from forecache.serve.store.remote_store import list_local_stores
from forecache.serve.store.store import Store

_BLOCK_KEYS = 1 << 13


@dataclass(frozen=True)
class VerifyResult:
    """The result for a version, or for the pointer if `version` is None."""

    pipeline: str
    version: int | None
    state: tuple[str, ...]
    problem: str  # a sentence; "": none
    read_bytes: int = 0  # files shared with an older version are read once
    rows: int = 0  # read and compared, if `content` was set


def verify_versions(folder: VersionedFolder[P], verify: Callable[[int], tuple[int, int]]) -> list[VerifyResult]:
    """Verify the pointer, and every version of a folder, the oldest first.

    No version is removed while it is read; one that is removed before is left out. `verify` reads a version and returns
    the numbers of bytes and of rows that it read; it raises if the version is damaged.
    """
    found = [VerifyResult(folder.name, None, (), pointer_problem(folder))]
    try:
        read_pointer(folder)
    except UnavailableError:
        return found  # without it nobody knows which versions belong to this folder
    for number in sorted({*folder.numbers(), *_required_versions(folder)}):
        state = version_state(folder, number)
        with keep_version(folder, number) as is_there:
            if not is_there and number not in _required_versions(folder):
                continue
            read_bytes, rows, problem = 0, 0, ""
            try:
                read_bytes, rows = verify(number)
            except (UnavailableError, NotFoundError, ConflictError) as error:
                problem = error.message
            found.append(VerifyResult(folder.name, number, state, problem, read_bytes, rows))
    return found


def _required_versions(folder: VersionedFolder[P]) -> set[int]:
    pointer = read_pointer(folder)
    return {number for number in (pointer.current, pointer.pinned) if number is not None}


def verify_releases(settings: Settings, names: Sequence[str], *, pace: ReadPace | None = None) -> list[VerifyResult]:
    """Verify the pointer and every release of these real-time models."""
    return [item for name in names for item in _verify_folder(settings, name, pace)]


def _verify_folder(settings: Settings, name: str, pace: ReadPace | None) -> list[VerifyResult]:
    folder = open_releases(settings, name)

    def verify(number: int) -> tuple[int, int]:
        files = read_release(folder, number).files
        return sum(verify_file(folder.release(number) / file, info, pace=pace) for file, info in files.items()), 0

    return verify_versions(folder, verify)


def verify_store(store: Store, *, content: bool = False, pace: ReadPace | None = None) -> list[VerifyResult]:
    """`verify_versions` of a store.

    With `content`, every key is looked up through the reader's code, too, and row count and content hash are compared
    with the manifest's: an incremental publish reads back only the keys that it changed.
    """
    known: dict[str, str] = {}

    def verify(number: int) -> tuple[int, int]:
        read_bytes = _verify_files(store, store.manifest(number), known, pace)
        if not content:
            return read_bytes, 0
        with store.snapshot(number) as snapshot:
            return read_bytes, _verify_content(snapshot)

    return verify_versions(store.layout, verify)


def verify_stores(
    settings: Settings, names: Sequence[str] = (), *, content: bool = False, pace: ReadPace | None = None
) -> list[VerifyResult]:
    """`verify_store` of the named pipelines, or of every store here; raises NotFoundError or DamagedStoresError."""
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


def check_bytes(settings: Settings) -> Finding:
    """Check, for `forecache doctor --deep`, that every byte of every version in the stores is as it was written."""
    found = verify_stores(settings)
    return Finding("store files", "ok", f"{size(sum(item.read_bytes for item in found))} of the stores were read")


class DamagedStoresError(CheckError):
    """Something is damaged; `found` has all results."""

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
        return "Publish again with --full, or release again; on a replica, `forecache store pull --verify`."
    if "pinned" in item.state:
        return f"Serve the current version with `forecache store unpin {item.pipeline}`."
    return "Versions that are not current are not served, and later publishes remove them; do not roll back to them."


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
    """Look up every key of the segments' pages and compare with the manifest; return their number."""
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
