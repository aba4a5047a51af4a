"""Staging of nights: shards that an earlier run left, and the rest, scored now by an engine or carried forward."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

from forecache.declare import AS_OF
from forecache.kit.delta.files import DataFile
from forecache.scoring.cost_estimate import RunFigures
from forecache.scoring.incremental.score_changes import BasePredictions, score_changes
from forecache.scoring.memory import Peaks, own_peak
from forecache.scoring.night_inputs import FeatureFile, ScoringNight
from forecache.scoring.partitions.staged_files import (
    describe_committed,
    list_folder,
    list_staged,
    missing_files,
    staging_folder,
)
from forecache.scoring.run_context import ScoringWork, num_cores
from forecache.scoring.tasks.arrow_engine import score_with_arrow
from forecache.scoring.tasks.job import ScoringJob
from forecache.scoring.tasks.spark_engine import score_with_spark

# Below this a night is one shard: it is scored again in a second or two.
SHARDED_ROWS = 1_000_000


@dataclass(frozen=True)
class StagedNights:
    """Scored shards of some nights, complete, and the number of rows that this run scored for them.

    Attributes:
        figures: Measured figures, for predictions of later runs; None if no row was left to score.
        carried: Those of the files whose keys are known to differ from each other and from all others.
        before: The files of the night's partition that predictions were carried forward from; None without any.
    """

    files: Mapping[date, Sequence[DataFile]]
    scored_rows: int
    seconds: float
    details: Mapping[str, Any] = field(default_factory=dict)
    figures: RunFigures | None = None
    carried: Sequence[DataFile] = ()
    before: Sequence[FeatureFile] | None = None


def stage_nights(work: ScoringWork, chunk: Sequence[ScoringNight]) -> StagedNights:
    """Collect the shards of a chunk: those that an earlier run left, and the rest, which is scored now."""
    started = time.perf_counter()
    if len(chunk) > 1:
        folder = staging_folder(chunk[0], shared=True)
        job = ScoringJob(
            {n.night: n.files for n in chunk}, {n.night: n.feature_version for n in chunk}, folder, sharded=False
        )
        peaks = _score(work, job)
        files = {
            n.night: list_folder(work.settings, work.table, f"{folder}/{AS_OF}={n.night.isoformat()}", n.night)
            for n in chunk
        }
        seconds = time.perf_counter() - started
        return StagedNights(files, job.rows, seconds, figures=_measured_figures(work, job.rows, seconds, peaks))
    night = chunk[0]
    staged = list_staged(work.settings, work.table, night)
    missing, peaks = missing_files(night, staged), Peaks()
    if missing:
        sharded = len(night.files) > 1 and night.rows >= SHARDED_ROWS
        job = ScoringJob(
            {night.night: missing}, {night.night: night.feature_version}, staging_folder(night), sharded=sharded
        )
        if staged:
            there = night.rows - sum(file.rows for file in missing)
            work.progress(f"taking up {there:,} of {night.rows:,} rows that an earlier run scored", None)
        peaks = _score(work, job)
        staged = list_staged(work.settings, work.table, night)
    files = {night.night: [file for files in staged.values() for file in files]}
    rows, seconds = sum(file.rows for file in missing), time.perf_counter() - started
    return StagedNights(
        files, rows, seconds, figures=_measured_figures(work, rows, seconds, peaks) if missing else None
    )


def stage_changes(work: ScoringWork, night: ScoringNight, base: BasePredictions) -> StagedNights:
    """Stage a night incrementally from its base; nothing of a killed run is reused."""
    folder = staging_folder(night)
    done = score_changes(work, night, base, folder)
    left = describe_committed(work.settings, work.table, done.untouched_files, night.night)
    files = [*left, *list_folder(work.settings, work.table, folder, night.night)]
    return StagedNights(
        {night.night: files},
        done.rescored,
        done.seconds,
        done.details(),
        replace(_measured_figures(work, night.rows, done.seconds, own_peak()), cores=num_cores()),
        # The base's keys differ if these very files were checked; rows that were scored now are not carried.
        carried=[file for file in files if file.path != done.scored] if base.checked else [],
        before=base.files if base.state.night == night.night else None,
    )


def _measured_figures(work: ScoringWork, rows: int, seconds: float, peaks: Peaks) -> RunFigures:
    return RunFigures(rows, seconds, work.cores, max(peaks.values(), default=None), "measured")


def _score(work: ScoringWork, job: ScoringJob) -> Peaks:
    return score_with_spark(work, job) if work.engine == "spark" else score_with_arrow(work, job)
