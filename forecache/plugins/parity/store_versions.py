"""Opens the store versions that a log names: from the store if it retains them, else from the lake.

The lake's rows are read at the version's as-of date and Delta version, and encoded as when publishing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.base.errors import DamagedError, ForecacheError, NotFoundError, UnavailableError
from forecache.base.settings import Settings
from forecache.kit.delta.tables import open_table
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.store import KeySchema, Snapshot, Store
from forecache.serve.store import content_hash as hashing
from forecache.serve.store.encoding.entries import Encoder, EntryEncoding
from forecache.serve.store.encoding.prediction_source import NightReader
from forecache.serve.store.manifest import Manifest
from forecache.serve.store.push_pull import open_fetched_store
from forecache.serve.store.segment.index import key_hashes
from forecache.serve.store.values import FLOAT

_HASHES, _ROWS, _KEYS = "hashes.npy", "rows.npy", "keys.arrow"
_NO_SAMPLES = 1 << 40


class MissingLakeRowsError(ForecacheError):
    """The lake no longer has the rows."""


def lake_content(
    settings: Settings, table: str, delta_version: int, as_of: str, like: Manifest, *, folder: Path | None = None
) -> tuple[int, str]:
    """Read and encode the rows of a version; return their number and content hash, as in a manifest.

    Args:
        like: A manifest with the encoding of the rows: the version's own, or one with the same contract.
        folder: Folder in which packed rows are saved for `LakeRows`; None: rows are only counted and hashed.

    Raises:
        MissingLakeRowsError: The table, this version of it or one of its files does not exist.
        DamagedError: A file is damaged.
    """
    encoding = EntryEncoding(like.key, like.fields, like.provenance, like.is_packed, like.states)
    encoder = Encoder(encoding, _NO_SAMPLES)
    keys: list[pa.Array] = []
    parts: list[np.ndarray] = []
    try:
        reader = NightReader(open_table(settings, table, version=delta_version), as_of)
        for piece in reader.pieces:
            # The provenance is read from the rows, since the one in the manifest is to be verified.
            for batch in reader.batches(piece, encoding.columns(), batch_rows=encoding.batch_rows):
                some, entries = encoder.encode(batch, piece.label)
                if folder is not None:
                    keys.append(some)
                    parts.append(_matrix(entries, like.width))
    except pa.ArrowInvalid as error:
        raise DamagedError(f"The table {table} is damaged at its Delta version {delta_version}: {error}") from error
    except (NotFoundError, OSError) as error:
        raise MissingLakeRowsError(
            f"The table {table} cannot be read at its Delta version {delta_version}: {error}"
        ) from error
    if folder is not None:
        _save(folder, keys, parts, like.width)
    return encoder.rows, hashing.to_hex(encoder.sum)


class LakeRows:
    """The packed rows of a version that were saved in a folder; mapped, so that processes share them."""

    def __init__(self, folder: Path, key: KeySchema, columns: tuple[str, ...], states: tuple[str, ...] = ()) -> None:
        self.key, self.columns, self.states = key, columns, states
        self._hashes = np.load(folder / _HASHES, mmap_mode="r")
        self._rows = np.load(folder / _ROWS, mmap_mode="r")
        with pa.memory_map(str(folder / _KEYS)) as source:
            self._keys = pa.ipc.open_file(source).read_all()["key"].combine_chunks()
        self._longest_run = _longest_run(self._hashes)

    def matrix(self, keys: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Look up keys as `Snapshot.matrix`: float32 [n, width], NaN if a key is not found, and found, bool [n]."""
        found = np.zeros(len(keys), np.bool_)
        matrix = np.full((len(keys), self._rows.shape[1]), np.nan, np.float32)
        if not len(self._hashes) or not keys:
            return matrix, found
        asked, hashes = pa.array(keys, pa.binary()), key_hashes(keys)
        first = np.searchsorted(self._hashes, hashes)
        for step in range(self._longest_run):  # more than one step only if two keys have the same hash
            at = np.minimum(first + step, len(self._hashes) - 1)
            same = np.asarray(pc.equal(self._keys.take(pa.array(at)), asked)) & ~found
            matrix[same], found = self._rows[at[same]], found | same
        return matrix, found


def _matrix(entries: pa.Array, columns: int) -> np.ndarray:
    content = np.frombuffer(entries.buffers()[2], FLOAT)
    start = entries.offset * columns
    return content[start : start + len(entries) * columns].reshape(len(entries), columns)


def _save(folder: Path, keys: list[pa.Array], parts: list[np.ndarray], columns: int) -> None:
    all_keys = pa.concat_arrays(keys) if keys else pa.array([], pa.binary())
    rows = np.concatenate(parts) if parts else np.empty((0, columns), np.float32)
    hashes = key_hashes(all_keys.to_pylist())
    order = np.argsort(hashes, kind="stable")
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / _HASHES, hashes[order])
    np.save(folder / _ROWS, rows[order])
    sorted_keys = pa.table({"key": all_keys.take(pa.array(order))})
    with pa.ipc.new_file(str(folder / _KEYS), sorted_keys.schema) as writer:
        writer.write_table(sorted_keys)


def _longest_run(hashes: np.ndarray) -> int:
    if not len(hashes):
        return 0
    starts = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]]))
    return int(np.diff(np.append(starts, len(hashes))).max())


@dataclass(frozen=True, order=True)
class StoreVersion:
    """A version that an answer was made from, as in the log."""

    name: str
    version: int
    as_of: str
    store: str  # id of the store that published it
    table: str  # with the next one and `as_of`, its source in the lake
    delta_version: int

    @property
    def title(self) -> str:
        return f"{self.name} version {self.version}"


class VersionRows(Protocol):
    """The rows of a version with the layout "packed"; a row has its columns, then the bits of its states."""

    @property
    def key(self) -> KeySchema: ...

    @property
    def columns(self) -> tuple[str, ...]: ...

    @property
    def states(self) -> tuple[str, ...]: ...

    def matrix(self, keys: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]: ...


@dataclass(frozen=True)
class SavedRows:
    """Rows of a removed version that `lake_content` saved in a folder, with their layout."""

    folder: Path
    key: KeySchema
    columns: tuple[str, ...]
    contract: str
    states: tuple[str, ...] = ()


class OpenVersions:
    """Opens versions, each once. `kept`: removed versions whose rows the lake still had."""

    def __init__(self, settings: Settings, kept: Mapping[StoreVersion, SavedRows]) -> None:
        self._settings, self._kept = settings, kept
        self._snapshots: dict[StoreVersion, Snapshot | None] = {}
        self._answers: dict[StoreVersion, VersionAnswers] = {}
        self._rows: dict[StoreVersion, LakeRows] = {}

    def snapshot(self, wanted: StoreVersion) -> Snapshot | None:
        """Open a version in its store; None if the store does not retain it, or its files do not open."""
        if wanted not in self._snapshots:
            self._snapshots[wanted] = self._open_snapshot(wanted)
        return self._snapshots[wanted]

    def answers(self, wanted: StoreVersion) -> VersionAnswers | None:
        """Open a version as the reader served it; None if the store does not retain it."""
        snapshot = self.snapshot(wanted)
        if snapshot is None:
            return None
        if wanted not in self._answers:
            self._answers[wanted] = VersionAnswers(snapshot)
        return self._answers[wanted]

    def open_rows(self, wanted: StoreVersion, contract: str) -> "VersionRows | None":
        """Open the rows of a version; None if neither store nor lake has them in this layout."""
        snapshot = self.snapshot(wanted)
        if snapshot is not None:
            return _SnapshotRows(snapshot)
        kept = self._kept.get(wanted)
        if kept is None or kept.contract != contract:
            return None
        if wanted not in self._rows:
            self._rows[wanted] = LakeRows(kept.folder, kept.key, kept.columns, kept.states)
        return self._rows[wanted]

    def contract_of(self, wanted: StoreVersion) -> str | None:
        """Return the contract of a version's columns; None if it is not known any more."""
        snapshot = self.snapshot(wanted)
        if snapshot is not None:
            return snapshot.manifest.contract
        kept = self._kept.get(wanted)
        return None if kept is None else kept.contract

    def close(self) -> None:
        for snapshot in self._snapshots.values():
            if snapshot is not None:
                snapshot.close()
        self._snapshots.clear()
        self._answers.clear()
        self._rows.clear()

    def _open_snapshot(self, wanted: StoreVersion) -> Snapshot | None:
        store = open_fetched_store(self._settings, wanted.name, wanted.version)
        if find_retained(store, wanted) is None:
            return None
        try:
            return store.snapshot(wanted.version)
        except (NotFoundError, DamagedError):
            return None


class _SnapshotRows:
    def __init__(self, snapshot: Snapshot) -> None:
        manifest = snapshot.manifest
        self.key, self.columns, self.matrix = manifest.key, manifest.columns, snapshot.matrix
        self.states = tuple(state.name for state in manifest.states)


def find_retained(store: Store, wanted: StoreVersion) -> Manifest | None:
    """Read the manifest of a retained version; None if the store removed it, or has been replaced by another one."""
    try:
        manifest = store.manifest(wanted.version)
    except (NotFoundError, DamagedError, UnavailableError):
        return None
    return manifest if manifest.store == wanted.store else None


def find_same_layout(store: Store, contract: str) -> Manifest | None:
    """Find the newest retained version of a store whose rows are laid out by a contract."""
    found = [manifest for manifest in store.versions() if manifest.is_packed and manifest.contract == contract]
    return found[-1] if found else None


_NAMED = ("name", "version", "as_of", "store", "table", "delta_version")


class StoreVersionParser:
    """Parses the store versions of log records; equal sets of versions, which most records share, become one object."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], tuple[StoreVersion, ...]] = {}

    def parse(self, column: pa.ListArray) -> list[tuple[tuple[StoreVersion, ...], dict[str, int]]]:
        """Return for each record its sorted versions, and by name their ages at the time of the request, in seconds."""
        flat = column.flatten()
        rows = list(zip(*(flat.field(name).to_pylist() for name in _NAMED), strict=True))
        ages = flat.field("age_s").to_pylist()
        ends = np.cumsum(pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)).tolist()
        found, start = [], 0
        for end in ends:
            some = tuple(rows[start:end])
            if some not in self._known:
                self._known[some] = tuple(sorted(StoreVersion(*each) for each in some))
            found.append((self._known[some], {row[0]: age for row, age in zip(some, ages[start:end], strict=True)}))
            start = end
        return found


def distinct_versions(column: pa.ListArray) -> set[StoreVersion]:
    """Return all versions that log records name."""
    flat = column.flatten()
    named = pa.table({name: flat.field(name) for name in _NAMED}).group_by(list(_NAMED)).aggregate([])
    return {StoreVersion(**each) for each in named.to_pylist()}
