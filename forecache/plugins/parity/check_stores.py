"""Compares the versions that a log names with the lake, as a whole and not only the rows that requests read.

A version's files are compared with their checksums, and its content hash with that of the lake's rows: the two ways to
the same rows have only the logged Delta version in common.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from forecache.base.errors import DamagedError, ForecacheError
from forecache.base.settings import Settings
from forecache.kit.versioned.leases import keep_version
from forecache.plugins.parity.store_versions import (
    MissingLakeRowsError,
    SavedRows,
    StoreVersion,
    find_retained,
    find_same_layout,
    lake_content,
)
from forecache.serve.store import Store
from forecache.serve.store.integrity import verify_filter, verify_segment
from forecache.serve.store.manifest import Manifest
from forecache.serve.store.push_pull import open_fetched_store


@dataclass(frozen=True)
class StoreCheck:
    """The result of the comparison of a version with the lake."""

    version: StoreVersion
    state: str  # "equal", "differs", "removed" (only the lake still has its rows), or "not compared"
    why: str = ""  # a sentence; "" if they are equal
    rows: int = -1  # number of rows in the lake; -1 if it no longer has them
    kept: SavedRows | None = None  # the rows of a removed version, saved from the lake


def check_store(*, settings: Settings, wanted: StoreVersion, contracts: Sequence[str], folder: Path) -> StoreCheck:
    """Compare a version of a store with the lake; if the store has removed it, save the lake's rows in a folder.

    Args:
        contracts: Contracts that releases of the log have for this view.
    """
    store = open_fetched_store(settings, wanted.name, wanted.version)
    with keep_version(store.layout, wanted.version) as is_there:
        manifest = find_retained(store, wanted) if is_there else None
        damage = "" if manifest is None else _find_damage(store, manifest)
    if manifest is None:
        return _check_removed(settings, store, wanted, contracts, folder)
    source = manifest.source
    if (source.table, source.delta_version, source.as_of) != (wanted.table, wanted.delta_version, wanted.as_of):
        said = f"{source.table} at Delta version {source.delta_version}, as of {source.as_of}"
        return StoreCheck(
            wanted, "differs",
            f"The log says that {wanted.title} holds {wanted.table} at Delta version {wanted.delta_version}, as of "
            f"{wanted.as_of}; its manifest says {said}.",
        )  # fmt: skip
    try:
        rows, content_hash = lake_content(settings, wanted.table, wanted.delta_version, wanted.as_of, manifest)
    except MissingLakeRowsError as error:
        return StoreCheck(wanted, "differs" if damage else "not compared", damage or str(error))
    except ForecacheError as error:
        return StoreCheck(wanted, "differs", damage or str(error))
    if damage:
        return StoreCheck(wanted, "differs", damage, rows)
    if (rows, content_hash) != (manifest.rows, manifest.content_hash):
        return StoreCheck(
            wanted, "differs",
            f"{wanted.title} holds {manifest.rows:,} rows with the content hash {manifest.content_hash}, and "
            f"{wanted.table} at Delta version {wanted.delta_version} {rows:,} with {content_hash}.",
            rows,
        )  # fmt: skip
    return StoreCheck(wanted, "equal", "", rows)


def _find_damage(store: Store, manifest: Manifest) -> str:
    """Verify the files of a version; returns the first problem, or ""."""
    try:
        for segment in manifest.segments:
            verify_segment(store.layout, segment)
        verify_filter(store.layout, manifest)
    except DamagedError as error:
        return str(error)
    return ""


def _check_removed(
    settings: Settings, store: Store, wanted: StoreVersion, contracts: Sequence[str], folder: Path
) -> StoreCheck:
    """Save the rows of a removed version from the lake, if it has them and a retained version has their layout."""
    laid_out = next(
        (found for found in (find_same_layout(store, contract) for contract in contracts) if found is not None), None
    )
    if laid_out is None:
        return StoreCheck(wanted, "not compared", f"{wanted.title} was removed, and no version left is laid out alike.")
    try:
        rows, _ = lake_content(
            settings, wanted.table, wanted.delta_version, wanted.as_of, laid_out, folder=folder
        )  # fmt: skip
    except ForecacheError as error:
        return StoreCheck(wanted, "not compared", f"{wanted.title} was removed. {error}")
    states = tuple(state.name for state in laid_out.states)
    kept = SavedRows(folder, laid_out.key, laid_out.columns, laid_out.contract, states)
    return StoreCheck(wanted, "removed", f"{wanted.title} was removed; its rows come from the lake.", rows, kept)
