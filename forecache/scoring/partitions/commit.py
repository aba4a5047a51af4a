"""From staged shards to a visible partition and a row of the ledger: checked, committed to the Delta log, recorded."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any

from forecache.base.prices import core_cost
from forecache.base.steps import lake_step
from forecache.declare import AS_OF
from forecache.kit.delta.commit import Target
from forecache.kit.delta.files import DataFile
from forecache.kit.delta.partitions import PartitionCommit, ReplaceResult, TableSnapshot, replace_partitions
from forecache.kit.delta.tables import open_table
from forecache.lake.ledger import last_records
from forecache.lake.stage import StageOutcome, format_nights
from forecache.scoring.night_inputs import ScoringNight, partition_files
from forecache.scoring.partitions.checks import check_partition
from forecache.scoring.partitions.shards import StagedNights
from forecache.scoring.partitions.staged_files import describe_committed
from forecache.scoring.run_context import ScoringWork
from forecache.scoring.tasks.prediction_rows import layout_of, prediction_fields

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class CommitResult:
    """Result of a commit: the figures of the checks by night, and by night the run whose rows were taken over."""

    checks: Mapping[str, Any]
    taken_over: Mapping[str, str]


def commit(work: ScoringWork, chunk: Sequence[ScoringNight], staged: StagedNights) -> CommitResult:
    """Check, commit and record, in this order: the next run only records nights that were committed and not recorded.

    CheckError if predictions are wrong, ConflictError if another run changed a night from other inputs.
    """
    lake_step("staged")
    started = time.perf_counter()
    checks = _check(work, chunk, staged)
    lake_step("checked")
    inputs = {night.night: night.inputs for night in chunk}
    done = commit_nights(work, staged.files, seen=_snapshot_for_commit(work.seen, staged), inputs=inputs)
    for night, run_id in done.taken_over.items():
        work.progress(f"run {run_id} was faster with {night}: its predictions are taken over", None)
    _record(work, chunk, staged, done, checks, seconds=staged.seconds + time.perf_counter() - started)
    lake_step("recorded")
    return CommitResult(
        {night.isoformat(): figures for night, figures in checks.items()},
        {night.isoformat(): run_id for night, run_id in done.taken_over.items()},
    )


def record_committed(
    work: ScoringWork, nights: Sequence[ScoringNight], writers: Mapping[date, PartitionCommit]
) -> dict[str, Any]:
    """Check nights that a run committed and was killed before it could record them, and record them.

    Returns the figures of the checks by night (ISO).
    """
    files = partition_files(work.settings, work.table, None, [night.night for night in nights])
    described = {night: describe_committed(work.settings, work.table, some, night) for night, some in files.items()}
    by = {night.isoformat(): writer.run_id for night, writer in writers.items()}
    staged = StagedNights(described, 0, 0.0, details={"committed_by": by})
    checks = _check(work, nights, staged)
    done = ReplaceResult({night: writer.version for night, writer in writers.items()}, {})
    _record(work, nights, staged, done, checks, seconds=0.0)
    return {night.isoformat(): figures for night, figures in checks.items()}


def _check(work: ScoringWork, nights: Sequence[ScoringNight], staged: StagedNights) -> dict[date, dict[str, Any]]:
    return {n.night: check_partition(work, n, staged.files[n.night], carried=staged.carried) for n in nights}


def _snapshot_for_commit(seen: TableSnapshot, staged: StagedNights) -> TableSnapshot:
    """The table as the run saw it; if predictions were carried forward within a night, with that night's files then."""
    if staged.before is None:
        return seen
    (night,) = staged.files
    return replace(seen, files={**seen.files, night.isoformat(): frozenset(file.path for file in staged.before)})


def _record(
    work: ScoringWork,
    chunk: Sequence[ScoringNight],
    staged: StagedNights,
    done: ReplaceResult,
    checks: Mapping[date, Mapping[str, Any]],
    *,
    seconds: float,
) -> None:
    """Record nights in the ledger, except those taken over from a run that has recorded them itself."""
    known = last_records(work.settings, work.stage, work.pipeline.name) if done.taken_over else {}
    nights = [
        night
        for night in chunk
        if not (night.night in done.taken_over and night.night in known and known[night.night].inputs == night.inputs)
    ]
    of_a_row = seconds / sum(night.rows for night in chunk)
    work.ledger.record(
        {
            night.night: StageOutcome(
                rows=night.rows,
                details={
                    "model_version": work.stamp.model_version,
                    "feature_table": work.pipeline.feature_table,
                    "feature_version": night.feature_version,
                    "engine": work.engine,
                    "runtime": work.plan.spec.runtime,
                    "checks": checks[night.night],
                    "cost": core_cost(work.settings, of_a_row * work.cores * night.rows),
                    **({"run": staged.figures.metadata(work.settings)} if staged.figures else {}),
                    **staged.details,
                    **work.details(night.night),
                },
                table=work.table,
                delta_version=done.versions[night.night],
                seconds=of_a_row * night.rows,
            )
            for night in nights
        },
        {night.night: night.inputs for night in nights},
        seconds,
    )


def commit_nights(
    work: ScoringWork, files: Mapping[date, Sequence[DataFile]], *, seen: TableSnapshot, inputs: Mapping[date, str]
) -> ReplaceResult:
    """Replace the nights' partitions by the staged files, some of which may be in them already, in one commit.

    The change data feed has the rows of added files as inserted and those of removed files as deleted.

    Args:
        seen: The table as the run saw it before it scored, or carried predictions forward.
        inputs: Inputs of each night's predictions; a night that another run committed from the same is taken over.
    """
    from deltalake import Schema

    nights = sorted(files)
    return replace_partitions(
        Target(work.settings, work.table, Schema.from_arrow(table_schema(work)), (AS_OF,), change_feed=True),
        [file for some in files.values() for file in some],
        column=AS_OF,
        values=nights,
        seen=seen,
        inputs=inputs,
        note={"forecache": f"score {work.pipeline.name} {format_nights(nights)}", "run_id": work.run_id},
    )


def table_schema(work: ScoringWork) -> "pa.Schema":
    """Columns of the prediction table, in order; key columns have the types of the feature table."""
    import pyarrow as pa

    features = pa.schema(open_table(work.settings, work.pipeline.feature_table).schema())
    keys = [pa.field(name, features.field(name).type) for name in work.pipeline.key]
    return pa.schema([*keys, (AS_OF, pa.date32()), *prediction_fields(layout_of(work.pipeline))])
