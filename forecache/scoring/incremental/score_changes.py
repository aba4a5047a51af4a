"""Incremental scoring: entities whose features did not change keep their prediction.

A prediction carried forward keeps its model version, feature version, scored_at and run id, which describe the run that
computed it. Only `as_of` is the new night's. The outputs equal those of a full run; another model, declaration or
kernel requires a full run.

A night that was rebuilt is compared through the change data feed. If its partition was written again as a whole, the
feed has every row as deleted and inserted, and only a comparison of contents shows the changes. A new night is compared
with the partition of an earlier one, and so is a night whose feed is large or no longer exists.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from deltalake.exceptions import DeltaError

from forecache.base.errors import CheckError, NotFoundError
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
from forecache.kit.delta.comparison.partition import PartitionReader, plain_type
from forecache.kit.delta.files import place_of
from forecache.kit.delta.log import read_entry
from forecache.kit.delta.tables import open_table, table_exists
from forecache.lake.engine import num_cores
from forecache.lake.ledger import StageRecord
from forecache.lake.query import scratch_folder
from forecache.scoring.incremental.carry_forward import Copier, FileCopy, as_type, entity_ids, new_file
from forecache.scoring.night_inputs import (
    FeatureFile,
    ScoringNight,
    ScoringRun,
    ScoringWork,
    files_of,
    partition_files,
)
from forecache.scoring.tasks.job import local_scorer
from forecache.scoring.tasks.prediction_file import open_output
from forecache.scoring.tasks.prediction_rows import file_schema
from forecache.scoring.tasks.task import TaskScorer

_MOST_FEED_BYTES = 256 << 20
"""A larger feed is not read: the partitions are compared, which takes little memory."""


@dataclass(frozen=True)
class FeatureChanges:
    """Differences from a base state to a target state."""

    changed: pa.Table  # key columns and features, as in the target, of entities that are new or whose features differ
    removed: pa.Table  # key columns of entities that are only in the base
    updated: int  # number of changed entities that are in both


@dataclass(frozen=True)
class PartitionVersion:
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
                remedy="Build the features of these dates again; mode 'full' says which date it is.",
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
    `hashes` are of the features of the removed rows and then of the added ones; None: all are known to differ."""
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


Mode = Literal["auto", "full", "incremental"]
# Above this share of change data, finding the changes costs more than scoring all rows.
_FEED_SHARE = 0.3
_BATCH_ROWS = 32_768


@dataclass(frozen=True)
class BasePredictions:
    """Predictions that may be carried forward, with the version of their features and their files."""

    state: PartitionVersion
    rows: int
    files: tuple[FeatureFile, ...]
    checked: bool  # True if a run checked and committed these very files, so that no key is in them twice


def find_base(
    run: ScoringRun, night: ScoringNight, before: Mapping[date | None, StageRecord], *, mode: Mode
) -> BasePredictions | None:
    """Find predictions of the same model, declaration and kernel that a night can start from; None for a full run.

    In mode "auto" only the night's own earlier predictions count, and only if little has changed by the feature table's
    log; in mode "incremental" also those of the latest earlier night.
    """
    settings, table = run.settings, run.table
    if mode == "full" or not table_exists(settings, table):
        return None
    usable = {
        day: record
        for day, record in before.items()
        if day is not None and day <= night.night and _same_but_features(record, night)
    }
    if night.night in usable:
        base = _base(settings, table, usable[night.night], night.night)
        if base is not None and base.state.version < night.feature_version:
            target = PartitionVersion(night.night, night.feature_version)
            if mode == "incremental" or feed_share(settings, run.pipeline, base.state, target) <= _FEED_SHARE:
                return base
    if mode == "auto":
        return None
    earlier = [day for day in usable if day < night.night]
    return _base(settings, table, usable[max(earlier)], max(earlier)) if earlier else None


def _same_but_features(record: StageRecord, night: ScoringNight) -> bool:
    version = record.details.get("feature_version")
    return version is not None and record.inputs == night.inputs.replace(
        f"@{night.feature_version} declared=", f"@{version} declared="
    )


def _base(settings: Settings, table: str, record: StageRecord, day: date) -> BasePredictions | None:
    delta = open_table(settings, table)
    files = files_of(delta, [day])[day]
    rows = sum(file.rows for file in files)
    if not rows or rows != record.rows:
        return None
    checked = delta.version() == record.delta_version or files == _committed_files(settings, table, record, day)
    return BasePredictions(PartitionVersion(day, record.details["feature_version"]), rows, files, checked)


def _committed_files(settings: Settings, table: str, record: StageRecord, day: date) -> tuple[FeatureFile, ...]:
    try:
        return partition_files(settings, table, record.delta_version, [day])[day]
    except NotFoundError:
        return ()


@dataclass(frozen=True)
class IncrementalResult:
    base: BasePredictions
    copied: tuple[FileCopy, ...]  # copy of each file of the base
    scored: str | None  # the file with new predictions, None if no entity changed
    rescored: int  # number of entities that are new or whose features changed
    removed: int  # number of entities that are no longer in the features
    seconds: float

    @property
    def carried_rows(self) -> int:
        return sum(copy.rows for copy in self.copied)

    @property
    def untouched_files(self) -> list[FeatureFile]:
        return [file for copy, file in zip(self.copied, self.base.files, strict=True) if copy.path == file.path]

    def details(self) -> dict[str, Any]:
        return {
            "mode": "incremental",
            "base": f"{self.base.state.night.isoformat()}@{self.base.state.version}",
            "rescored": self.rescored,
            "removed": self.removed,
            "carried": self.carried_rows,
        }


def score_changes(work: ScoringWork, night: ScoringNight, base: BasePredictions, folder: str) -> IncrementalResult:
    """Write a night's predictions into a staging folder: new ones for changed entities, the base's for all others.

    Of a base of the same night, files without a changed entity stay where they are. CheckError if the base lacks an
    entity that it should have, or has one twice.
    """
    started = time.perf_counter()
    pipeline = work.pipeline
    scorer = local_scorer(work)  # first, because an error in it must come before anything is copied
    changes = find_changes(work.settings, pipeline, base.state, PartitionVersion(night.night, night.feature_version))
    keys = [field for field in changes.changed.schema if field.name in pipeline.key]
    schema = file_schema(scorer.spec.layout, [pa.field(key.name, plain_type(key.type)) for key in keys])
    target = place_of(work.settings, work.table).open()
    same_night = base.state.night == night.night
    copier = Copier(target, pipeline.key, schema, _drop_set(pipeline, changes), folder, same_night)
    with ThreadPoolExecutor(num_cores(), thread_name_prefix="forecache-carry") as pool:
        copies = pool.map(copier.copy, [file.path for file in base.files])
        scored = _score_changed(scorer, target, night, changes.changed, new_file(folder), schema)
        copied = list(copies)
    carried = IncrementalResult(
        base, tuple(copied), scored, changes.changed.num_rows, changes.removed.num_rows, time.perf_counter() - started
    )
    _check_dropped(pipeline, base, carried, dropped=changes.updated + changes.removed.num_rows)
    return carried


def _check_dropped(pipeline: Pipeline, base: BasePredictions, carried: IncrementalResult, *, dropped: int) -> None:
    """Check that the rows that were carried are those of all other entities, each once: if each entity that was changed
    or removed was dropped exactly once, none was carried beside its new row, and the base lacked none."""
    if base.rows - carried.carried_rows != dropped:
        raise CheckError(
            f"The predictions of pipeline {pipeline.name!r} for {base.state.night} have "
            f"{base.rows - carried.carried_rows} rows of the {dropped} entities that changed.",
            remedy="They are not what was committed; score the date in full, with mode 'full'.",
        )


def _drop_set(pipeline: Pipeline, changes: FeatureChanges) -> pa.Array:
    parts = [entity_ids([table.column(name) for name in pipeline.key]) for table in (changes.changed, changes.removed)]
    chunks = [chunk for part in parts for chunk in part.chunks]
    return pa.chunked_array(chunks, type=parts[0].type).combine_chunks().sort()


def _score_changed(
    scorer: TaskScorer, filesystem: Any, night: ScoringNight, changed: pa.Table, path: str, schema: pa.Schema
) -> str | None:
    """Score the changed entities into a file; returns its path, None if there are none."""
    if not changed.num_rows:
        return None
    with open_output(filesystem, path, schema) as output:
        for batch in changed.to_batches(max_chunksize=_BATCH_ROWS):
            features = [batch.column(name) for name in scorer.spec.inputs]
            keys = [as_type(batch.column(name), schema.field(name).type) for name in scorer.spec.layout.key]
            output.write(scorer.predict(keys, features, night.feature_version, schema))
    return path
