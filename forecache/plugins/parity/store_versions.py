"""Opens the store versions that a log names: from the store if it retains them, else from the lake."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.base.errors import DamagedError, NotFoundError, UnavailableError
from forecache.base.settings import Settings
from forecache.plugins.parity.lake_rows import LakeRows
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.store import KeySchema, Snapshot, Store
from forecache.serve.store.manifest import Manifest
from forecache.serve.store.store import open_store


@dataclass(frozen=True, order=True)
class StoreVersion:
    """A version that an answer was made from, as in the log.

    Attributes:
        store: Id of the store that published it.
        table, delta_version, as_of: Its source in the lake.
    """

    name: str
    version: int
    as_of: str
    store: str
    table: str
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
    """Opens versions, each once.

    Args:
        kept: Removed versions whose rows the lake still had.
    """

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
        """Open the rows of a version; None if neither store nor lake has them in this layout.

        Args:
            contract: Contract that the model was trained with, by which rows from the lake are laid out.
        """
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
        store = open_store(self._settings, wanted.name)
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
