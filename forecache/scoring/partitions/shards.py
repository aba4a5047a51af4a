"""Staging of nights: shards that an earlier run left, and the rest, scored now by an engine or carried forward.

A shard is one feature file of the night, or the whole night if it is small: Parquet files below the prediction table
that its log does not name yet. Its predictions are in the order of the file's rows, in one or several parts; each part
is a file that is written atomically and describes itself: its folder identifies its inputs (model, features,
declaration, code) and its footer has the number of rows. A run that resumes a killed one finds the parts and scores the
rest, also from the middle of a feature file. Files that are not committed are reused for 6 days, and removed by
maintenance after 7.
"""

import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta, timezone
from itertools import count, takewhile
from typing import Any
from urllib.parse import unquote

from forecache.base.settings import Settings
from forecache.declare import AS_OF
from forecache.kit.delta.files import RETENTION, DataFile, describe_files, list_entries, list_files, place_of
from forecache.lake.engine import num_cores
from forecache.scoring.cost_estimate import RunFigures
from forecache.scoring.incremental.score_changes import BasePredictions, score_changes
from forecache.scoring.night_inputs import FeatureFile, ScoringNight, ScoringWork
from forecache.scoring.tasks.engines import score_with_arrow, score_with_spark
from forecache.scoring.tasks.job import ScoringJob
from forecache.scoring.tasks.task import Peaks, own_peak

WHOLE = "all"
_RESUMED = RETENTION - timedelta(days=1)
_PART = re.compile(r"\.c(\d+)\.[^/]*$")


def staging_folder(night: ScoringNight, *, shared: bool = False) -> str:
    """A new folder for this attempt, relative to the table, because two runs of one night must not share one.

    A `shared` one is for several small nights, of which this is the first, each below `as_of=<night>`.
    """
    attempt = f"{night.tag}-{uuid.uuid4().hex[:8]}"
    return f"scored-{attempt}" if shared else f"{AS_OF}={night.night.isoformat()}/{attempt}"


def list_folder(settings: Settings, table: str, folder: str, night: date) -> list[DataFile]:
    shards = _group_by_shard(place_of(settings, table).open(), folder, night)
    return [file for files in shards.values() for file in files]


def list_staged(settings: Settings, table: str, night: ScoringNight) -> dict[str, list[DataFile]]:
    """Scored files of each feature file, from its first row on without a gap, of any attempts."""
    from pyarrow import fs

    filesystem = place_of(settings, table).open()
    base, since = f"{AS_OF}={night.night.isoformat()}", datetime.now(timezone.utc) - _RESUMED
    segments: dict[tuple[str, int], list[list[DataFile]]] = {}
    for folder in list_entries(filesystem, base):
        if folder.type != fs.FileType.Directory or not folder.base_name.startswith(f"{night.tag}-"):
            continue
        for shard, files in _group_by_shard(filesystem, folder.path, night.night, since).items():
            if shard != WHOLE:
                segments.setdefault(_rows_of_shard(shard), []).append(_unbroken_parts(files))
            elif _rows(files) == night.rows:
                return {WHOLE: files}
    covered = {file.name: _longest_cover(file, segments) for file in night.files}
    return {name: files for name, files in covered.items() if files}


def missing_files(night: ScoringNight, staged: Mapping[str, Sequence[DataFile]]) -> list[FeatureFile]:
    """The feature files, or the rest of them, that have not been scored."""
    if WHOLE in staged:
        return []
    done = {file.name: _rows(staged.get(file.name, ())) for file in night.files}
    return [
        replace(file, first=done[file.name], rows=file.rows - done[file.name])
        for file in night.files
        if done[file.name] < file.rows
    ]


def _rows(files: Sequence[DataFile]) -> int:
    return sum(file.rows for file in files)


def _rows_of_shard(shard: str) -> tuple[str, int]:
    """The feature file of a shard, and its first row."""
    name, _, first = shard.rpartition("@")
    return (name, int(first)) if name and first.isdigit() else (shard, 0)


def _unbroken_parts(files: Sequence[DataFile]) -> list[DataFile]:
    """The first parts of a shard without a gap."""
    by_part = {int(part[1]): file for file in files if (part := _PART.search(file.path)) is not None}
    return [by_part[i] for i in takewhile(by_part.__contains__, count())]


def _longest_cover(file: FeatureFile, segments: Mapping[tuple[str, int], Sequence[list[DataFile]]]) -> list[DataFile]:
    found: list[DataFile] = []
    while (done := _rows(found)) < file.rows:
        fitting = [some for some in segments.get((file.name, done), ()) if 0 < _rows(some) <= file.rows - done]
        if not fitting:
            break
        longest: list[DataFile] = max(fitting, key=_rows)
        found += longest
    return found


def _group_by_shard(
    filesystem: Any, folder: str, night: date, since: datetime | None = None
) -> dict[str, list[DataFile]]:
    """The complete files in a folder that were written since, by shard."""
    found: dict[str, list[DataFile]] = {}
    for file in list_files(filesystem, folder, since=since):
        parts = dict(part.split("=", 1) for part in file.path.split("/") if "=" in part)
        shard = unquote(parts.get("shard", WHOLE))
        found.setdefault(shard, []).append(_assign_night(file, night))
    return found


def _assign_night(file: DataFile, night: date) -> DataFile:
    return replace(file, partition={AS_OF: night.isoformat()})


def describe_committed(settings: Settings, table: str, files: Sequence[FeatureFile], night: date) -> list[DataFile]:
    """The files of a night's partition, with their statistics."""
    found = describe_files(place_of(settings, table).open(), [(file.path, file.size_bytes) for file in files])
    staged = [_assign_night(file, night) for file in found if file is not None]
    assert len(staged) == len(files)
    return staged


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
    return score_with_spark(work, job) if work.engine.name == "spark" else score_with_arrow(work, job)
