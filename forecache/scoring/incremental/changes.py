"""Finds the entities whose features differ between two versions of a partition of the feature table.

A night that was rebuilt is compared through the change data feed. If its partition was written again as a whole, the
feed has every row as deleted and inserted, and only a comparison of contents shows the changes. A new night is compared
with the partition of an earlier one, and so is a night whose feed is large or no longer exists.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake.exceptions import DeltaError

from forecache.base.errors import CheckError
from forecache.base.hashes import row_hashes
from forecache.base.settings import Settings
from forecache.declare import AS_OF, Pipeline
from forecache.kit.delta.comparison.compare import (
    MOST_THREADS,
    NOWHERE,
    HashedPartition,
    find_differing_rows,
    match_keys,
    read_feed,
)
from forecache.kit.delta.comparison.partition import PartitionReader
from forecache.kit.delta.files import place_of
from forecache.kit.delta.log import read_entry
from forecache.kit.delta.tables import open_table
from forecache.scoring.incremental.carry_forward import entity_ids
from forecache.scoring.night_inputs import partition_files
from forecache.scoring.run_context import num_cores, scratch_folder

_MOST_FEED_BYTES = 256 << 20
"""A larger feed is not read: the partitions are compared, which takes little memory."""


@dataclass(frozen=True)
class FeatureChanges:
    """Differences from a base state to a target state.

    Attributes:
        changed: Key columns and features, as in the target, of entities that are new or whose features differ.
        removed: Key columns of entities that are only in the base.
        updated: Number of changed entities that are in both.
    """

    changed: pa.Table
    removed: pa.Table
    updated: int


@dataclass(frozen=True)
class PartitionVersion:
    """A night's feature partition at a version of the feature table."""

    night: date
    version: int


def find_changes(
    settings: Settings, pipeline: Pipeline, base: PartitionVersion, target: PartitionVersion
) -> FeatureChanges:
    """Find the changes from a base to a target: one night at two versions, or two nights.

    NotFoundError if a version of the feature table no longer exists, CheckError if an entity occurs more than once.
    """
    found = None
    if base.night == target.night:
        with suppress(DeltaError, pa.ArrowException, FileNotFoundError):  # a version between them may be removed
            found = _from_feed(settings, pipeline, base, target)
    return found or _from_partitions(settings, pipeline, base, target)


def feed_share(settings: Settings, pipeline: Pipeline, base: PartitionVersion, target: PartitionVersion) -> float:
    """Size of the change data between two versions relative to the night's partition, from the log alone.

    It is about 0.01 if one row in a hundred was updated, about 2 if the partition was written again.
    """
    filesystem = place_of(settings, pipeline.feature_table).open()
    day = target.night.isoformat()
    changed = 0
    for version in range(base.version + 1, target.version + 1):
        actions = read_entry(filesystem, version, pipeline.feature_table)
        ours = [action for action in actions if _partition(action) == day]
        feed = [action["cdc"]["size"] for action in ours if "cdc" in action]
        rewritten = [(action.get("add") or action.get("remove") or {}).get("size", 0) for action in ours]
        changed += sum(feed) if feed else sum(rewritten)
    files = partition_files(settings, pipeline.feature_table, target.version, [target.night])[target.night]
    return changed / max(1, sum(file.size_bytes for file in files))


def _partition(action: dict[str, Any]) -> str | None:
    for kind in ("cdc", "add", "remove"):
        if kind in action:
            return (action[kind].get("partitionValues") or {}).get(AS_OF)
    return None


def _from_feed(
    settings: Settings, pipeline: Pipeline, base: PartitionVersion, target: PartitionVersion
) -> FeatureChanges | None:
    """Find the changes by the change data feed; None if it is too large."""
    table = open_table(settings, pipeline.feature_table, version=target.version)
    columns, night = [*pipeline.key, *pipeline.feature_names], (AS_OF, target.night.isoformat())
    feed = read_feed(table, (base.version + 1, target.version), columns, night, most_bytes=_MOST_FEED_BYTES)
    if feed is None:
        return None
    removed, added = feed.removed.combine_chunks(), feed.added.combine_chunks()
    hashes = [np.empty(0, np.uint64)]
    for side in (removed, added):
        hashes += [_hashes(batch, pipeline.feature_names) for batch in side.to_batches()]
    return _changes(pipeline, removed, added, hashes=np.concatenate(hashes), moments=feed.moments)


def _from_partitions(
    settings: Settings, pipeline: Pipeline, base: PartitionVersion, target: PartitionVersion
) -> FeatureChanges:
    key, columns = list(pipeline.key), [*pipeline.key, *pipeline.feature_names]

    def side(state: PartitionVersion, wanted: list[str]) -> HashedPartition:
        table = open_table(settings, pipeline.feature_table, version=state.version)
        reader = PartitionReader(table, AS_OF, state.night.isoformat())
        return HashedPartition(reader, lambda _: columns, lambda batch, _: _hashes(batch, columns), wanted=wanted)

    old, new = side(base, key), side(target, columns)
    with ThreadPoolExecutor(min(num_cores(), MOST_THREADS), thread_name_prefix="forecache-changes") as threads:
        found = find_differing_rows(old, new, threads, scratch_folder(settings))
        if found is None:
            raise CheckError(
                f"Entities of pipeline {pipeline.name!r} are more than once in its features for {base.night} or "
                f"{target.night}.",
                remedy="Build the features of these nights again; mode 'full' says which night it is.",
            )
        removed, added = (
            pa.Table.from_batches(
                (batch for batch, _ in side.read_rows_at(unmatched.rows, threads)),
                pa.schema([side.reader.schema.field(name) for name in wanted]),
            )
            for side, unmatched, wanted in zip((old, new), found, (key, columns), strict=True)
        )
    return _changes(pipeline, removed, added)


def _changes(
    pipeline: Pipeline,
    removed: pa.Table,
    added: pa.Table,
    *,
    hashes: np.ndarray | None = None,
    moments: np.ndarray | None = None,
) -> FeatureChanges:
    """Find the entities that changed, given rows that were removed and added, and their `moments` (see `match_keys`).

    Args:
        hashes: Of the features of the removed rows and then of the added ones; None: all are known to differ.
    """
    ids = [entity_ids([rows.column(name) for name in pipeline.key]) for rows in (removed, added)]
    states = match_keys(pa.chunked_array([*ids[0].chunks, *ids[1].chunks], ids[0].type), len(removed), moments)
    was, now = states.before != NOWHERE, states.after != NOWHERE
    changed = now if hashes is None else now & (~was | (hashes[states.before] != hashes[len(removed) + states.after]))
    return FeatureChanges(
        added.select([*pipeline.key, *pipeline.feature_names]).take(pa.array(states.after[changed])),
        removed.select(pipeline.key).take(pa.array(states.before[was & ~now])),
        int((changed & was).sum()),
    )


def _hashes(batch: pa.RecordBatch, columns: Sequence[str]) -> np.ndarray:
    return row_hashes([batch.column(name) for name in columns])
