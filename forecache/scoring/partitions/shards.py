"""The shards of nights: those that an earlier run left, and the rest, scored now by an engine or carried forward."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

from forecache.pipeline import AS_OF
from forecache.scoring.cost_estimate import Figures
from forecache.scoring.incremental.incremental import Base, score_changes
from forecache.scoring.memory import Peaks, own_peak
from forecache.scoring.night import FeatureFile, Night
from forecache.scoring.partitions.staged_files import (
    StagedFile,
    describe_committed,
    list_folder,
    list_staged,
    missing_files,
    staging_folder,
)
from forecache.scoring.tasks.arrow_engine import score_with_arrow
from forecache.scoring.tasks.job import Job
from forecache.scoring.tasks.spark_engine import score_with_spark
from forecache.scoring.work import Work, num_cores

# Below this a night is one shard: it is scored again in a second or two.
SHARDED_ROWS = 1_000_000


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
        peaks = _score(work, job)
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
        peaks = _score(work, job)
        staged = list_staged(work.settings, work.table, night)
    files = {night.night: [file for files in staged.values() for file in files]}
    rows, seconds = sum(file.rows for file in missing), time.perf_counter() - started
    return Staged(files, rows, seconds, figures=_measured(work, rows, seconds, peaks) if missing else None)


def stage_changes(work: Work, night: Night, base: Base) -> Staged:
    """An incremental night, from wherever its base lies; a run that was killed does it again."""
    folder = staging_folder(night)
    done = score_changes(work, night, base, folder)
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


def _score(work: Work, job: Job) -> Peaks:
    return score_with_spark(work, job) if work.engine == "spark" else score_with_arrow(work, job)
