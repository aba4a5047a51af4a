"""Bringing the shards of nights together: left by an earlier run, scored now by an engine, or carried forward."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from forecache.inference.choose_runtime import Plan
from forecache.lake.costs import core_cost
from forecache.lake.delta.partitions import Committed, Seen, Writer
from forecache.lake.ledger import StageRecord, last_records, record
from forecache.lake.steps import step
from forecache.pipeline import AS_OF, Pipeline
from forecache.results import Progress
from forecache.scoring.cost_estimate import Figures
from forecache.scoring.incremental.incremental import Base, score_changes
from forecache.scoring.memory import Peaks, own_peak
from forecache.scoring.night import STAGE, FeatureFile, Night, partition_files
from forecache.scoring.partitions.commit import check_partition, commit_nights
from forecache.scoring.partitions.staged_files import (
    StagedFile,
    describe_committed,
    list_folder,
    list_staged,
    missing_files,
    staging_folder,
)
from forecache.scoring.tasks.arrow_engine import num_cores, num_threads, score_job_with_arrow
from forecache.scoring.tasks.job import Job
from forecache.scoring.tasks.prediction_rows import Stamp
from forecache.scoring.tasks.spark_engine import score_job
from forecache.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Engine = Literal["spark", "arrow"]
BATCH_ROWS = 20_000
# Below this a night is one shard: it is scored again in a second or two.
SHARDED_ROWS = 1_000_000


@dataclass(frozen=True)
class Work:
    """What a run needs beside the nights; `seen` is the table as it was before the run looked at anything else."""

    spark: "SparkSession | None"
    settings: Settings
    pipeline: Pipeline
    table: str
    plan: Plan
    stamp: Stamp
    engine: Engine
    progress: Progress
    seen: Seen
    batch_rows: int = BATCH_ROWS

    @property
    def cores(self) -> int:
        """Cores that the engine keeps busy."""
        if self.engine == "arrow":
            return num_threads(self.plan)
        assert self.spark is not None
        return self.spark.sparkContext.defaultParallelism


@dataclass(frozen=True)
class Staged:
    """Scored shards of some nights, complete, and how many rows this run had to score for them.

    Attributes:
        figures: What that took, for the plan of later runs; None where nothing was left to do.
        carried: Those of the files whose keys are known to differ from each other and from all others.
        before: The files of the night's partition that predictions were carried forward from; None: none were.
    """

    files: Mapping[date, Sequence[StagedFile]]
    scored_rows: int
    seconds: float
    details: Mapping[str, Any] = field(default_factory=dict)
    figures: Figures | None = None
    carried: Sequence[StagedFile] = ()
    before: Sequence[FeatureFile] | None = None


def stage_nights(work: Work, chunk: Sequence[Night]) -> Staged:
    """Bring the shards of a chunk together: those that an earlier run left, and the rest scored now."""
    started = time.perf_counter()
    if len(chunk) > 1:
        folder = staging_folder(chunk[0], shared=True)
        job = Job({n.night: n.files for n in chunk}, {n.night: n.feature_version for n in chunk}, folder, sharded=False)
        peaks = _score_job(work, job)
        files = {
            n.night: list_folder(work.settings, work.table, f"{folder}/{AS_OF}={n.night.isoformat()}", n.night)
            for n in chunk
        }
        seconds = time.perf_counter() - started
        return Staged(files, job.rows, seconds, figures=_measured(work, job.rows, seconds, peaks))
    night = chunk[0]
    staged = list_staged(work.settings, work.table, night)
    missing, peaks = missing_files(night, staged), Peaks()
    if missing:
        sharded = len(night.files) > 1 and night.rows >= SHARDED_ROWS
        job = Job({night.night: missing}, {night.night: night.feature_version}, staging_folder(night), sharded=sharded)
        if staged:
            there = night.rows - sum(file.rows for file in missing)
            work.progress(f"taking up {there:,} of {night.rows:,} rows that an earlier run scored", None)
        peaks = _score_job(work, job)
        staged = list_staged(work.settings, work.table, night)
    files = {night.night: [file for files in staged.values() for file in files]}
    rows, seconds = sum(file.rows for file in missing), time.perf_counter() - started
    return Staged(files, rows, seconds, figures=_measured(work, rows, seconds, peaks) if missing else None)


def stage_changes(work: Work, night: Night, base: Base) -> Staged:
    """An incremental night, from wherever its base lies; a run that was killed does it again."""
    folder = staging_folder(night)
    done = score_changes(work.settings, work.pipeline, work.table, work.plan, night, base, work.stamp, folder)
    left = describe_committed(work.settings, work.table, done.left, night.night)
    files = [*left, *list_folder(work.settings, work.table, folder, night.night)]
    return Staged(
        {night.night: files},
        done.rescored,
        done.seconds,
        done.details(),
        replace(_measured(work, night.rows, done.seconds, own_peak()), cores=num_cores()),
        # The base's keys differ where a check said so of these very files, and those that were scored are not carried.
        carried=[file for file in files if file.path != done.scored] if base.checked else [],
        before=base.files if base.state.night == night.night else None,
    )


def _measured(work: Work, rows: int, seconds: float, peaks: Peaks) -> Figures:
    return Figures(rows, seconds, work.cores, max(peaks.values(), default=None), "measured")


def _score_job(work: Work, job: Job) -> Peaks:
    run: Callable[..., Peaks] = score_job_with_arrow
    if work.engine == "spark":
        assert work.spark is not None
        run = partial(score_job, work.spark)
    return run(
        work.settings,
        work.pipeline,
        work.table,
        work.plan,
        job,
        work.stamp,
        batch_rows=work.batch_rows,
        progress=work.progress,
    )


def span(nights: Sequence[Night]) -> str:
    """The nights for people."""
    return str(nights[0].night) if len(nights) == 1 else f"{nights[0].night} to {nights[-1].night}"


@dataclass(frozen=True)
class Published:
    """What became of nights: the figures of their checks, and the runs that others' rows were taken over from."""

    checks: Mapping[str, Any]
    taken_over: Mapping[str, str]


def publish(work: Work, chunk: Sequence[Night], staged: Staged, *, stage: str = STAGE) -> Published:
    """Check, commit, record, in this order: what was committed and not recorded, the next run only records.

    Raises:
        CheckError: The predictions of a night are wrong; nothing has become visible.
        ConflictError: Another run changed one of the nights meanwhile, from other inputs.
    """
    step("staged")
    started = time.perf_counter()
    checks = {night.night: _checked(work, night, staged) for night in chunk}
    step("checked")
    done = commit_nights(
        work.settings,
        work.pipeline,
        work.table,
        staged.files,
        seen=_seen(work.seen, staged),
        inputs={night.night: night.inputs for night in chunk},
        note={"forecache": f"score {work.pipeline.name} {span(chunk)}", "run_id": work.stamp.run_id},
    )
    for night, run_id in done.taken_over.items():
        work.progress(f"run {run_id} was faster with {night}: its predictions are taken over", None)
    _record(work, chunk, staged, done, checks, stage, seconds=staged.seconds + time.perf_counter() - started)
    step("recorded")
    return Published(
        {night.isoformat(): figures for night, figures in checks.items()},
        {night.isoformat(): run_id for night, run_id in done.taken_over.items()},
    )


def record_committed(
    work: Work,
    nights: Sequence[Night],
    writers: Mapping[date, Writer],
    *,
    stage: str = STAGE,
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Check nights that a run committed and was killed before it could record them, and record them.

    Args:
        details: Further ones of each night's record.

    Returns:
        The figures of the checks by night (ISO).

    Raises:
        CheckError: The predictions of a night are wrong.
    """
    files = partition_files(work.settings, work.table, None, [night.night for night in nights])
    described = {night: describe_committed(work.settings, work.table, some, night) for night, some in files.items()}
    by = {"committed_by": {n.isoformat(): w.run_id for n, w in writers.items()}}
    staged = Staged(described, 0, 0.0, details={**by, **(details or {})})
    checks = {night.night: _checked(work, night, staged) for night in nights}
    done = Committed({night: writer.version for night, writer in writers.items()}, {})
    _record(work, nights, staged, done, checks, stage, seconds=0.0)
    return {night.isoformat(): figures for night, figures in checks.items()}


def _checked(work: Work, night: Night, staged: Staged) -> dict[str, Any]:
    return check_partition(
        work.settings,
        work.pipeline,
        work.table,
        night.night,
        staged.files[night.night],
        expected_rows=night.rows,
        carried=staged.carried,
    )


def _seen(seen: Seen, staged: Staged) -> Seen:
    """The table as the run saw it; of a night that predictions were carried forward in, as it was when they were."""
    if staged.before is None:
        return seen
    (night,) = staged.files
    return replace(seen, files={**seen.files, night.isoformat(): frozenset(file.path for file in staged.before)})


def _record(
    work: Work,
    chunk: Sequence[Night],
    staged: Staged,
    done: Committed,
    checks: Mapping[date, Mapping[str, Any]],
    stage: str,
    *,
    seconds: float,
) -> None:
    """Enter nights in the ledger, but for those taken over from a run that has done so itself."""
    known = last_records(work.settings, stage, work.pipeline.name) if done.taken_over else {}
    total = sum(night.rows for night in chunk)
    rows = [
        StageRecord(
            stage=stage,
            subject=work.pipeline.name,
            night=night.night,
            inputs=night.inputs,
            table=work.table,
            delta_version=done.versions[night.night],
            rows=night.rows,
            seconds=seconds * night.rows / total,
            details={
                "model_version": work.stamp.model_version,
                "feature_version": night.feature_version,
                "engine": work.engine,
                "runtime": work.plan.spec.runtime,
                "checks": checks[night.night],
                "cost": core_cost(work.settings, seconds * work.cores * night.rows / total),
                **({"run": staged.figures.metadata(work.settings)} if staged.figures else {}),
                **staged.details,
            },
            run_id=work.stamp.run_id,
        )
        for night in chunk
        if not (night.night in done.taken_over and night.night in known and known[night.night].inputs == night.inputs)
    ]
    record(work.settings, rows)
