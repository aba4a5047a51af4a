"""A scoring job: the feature files of some nights, divided into tasks, and the tasks' common specification."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

from forecache.base.errors import InputError
from forecache.declare import AS_OF, Pipeline
from forecache.kit.delta.errors import open_data_file
from forecache.kit.delta.files import place_of
from forecache.kit.process.wakes import SCORING_PROGRESS
from forecache.lake.query import scratch_folder
from forecache.models.inference.outputs import known_outputs
from forecache.scoring.night_inputs import FeatureFile, ScoringWork
from forecache.scoring.tasks.prediction_rows import layout_of
from forecache.scoring.tasks.task import JobSpec, Task, TaskScorer, row_groups

REPORT_EVERY_S = SCORING_PROGRESS.every_s
# A part takes a few tenths of a second. A kill loses one part per core.
PART_ROWS = 100_000


@dataclass(frozen=True)
class ScoringJob:
    """The feature files of some nights, to be scored into a folder below the prediction table.

    Attributes:
        sharded: One output folder for each feature file, with the predictions of its rows in their order and in parts,
            so that a later run can reuse them.
    """

    files: Mapping[date, Sequence[FeatureFile]]  # feature files to score, by night
    versions: Mapping[date, int]  # feature table version of each night
    folder: str
    sharded: bool

    @property
    def rows(self) -> int:
        return sum(file.rows for files in self.files.values() for file in files)

    def part_rows(self, cores: int) -> int:
        """Rows after which an output file ends: few enough that a kill loses at most a twentieth of a large job."""
        return max(PART_ROWS, self.rows // (20 * cores)) if self.sharded else self.rows


def job_spec(work: ScoringWork, *, part_rows: int) -> JobSpec:
    """Make the common specification of a job's tasks; InputError if the model takes a column that the pipeline does not
    compute, returns no output of a declared name, or knows other classes."""
    layout = layout_of(work.pipeline)
    layout = replace(layout, outputs=known_outputs(layout.outputs, work.plan.spec))
    return JobSpec(
        place_of(work.settings, work.pipeline.feature_table),
        place_of(work.settings, work.table),
        work.plan.spec,
        tuple(model_features(work.pipeline, work.plan.spec.inputs)),
        layout,
        work.stamp,
        work.batch_rows,
        part_rows,
    )


def local_scorer(work: ScoringWork, *, part_rows: int = 0) -> TaskScorer:
    """The scorer of this process; only tasks need `part_rows`."""
    folder = scratch_folder(work.settings) / "models"
    folder.mkdir(exist_ok=True)
    return TaskScorer(job_spec(work, part_rows=part_rows), lambda: work.plan.payload, lambda: str(folder))


def tasks_of(work: ScoringWork, job: ScoringJob) -> list[Task]:
    """One task for each file, or for each row group if there are fewer files than cores; the largest first."""
    few = sum(len(files) for files in job.files.values()) < work.cores
    parts = [
        (night, part)
        for night, files in job.files.items()
        for file in files
        for part in (_split_by_row_group(work, file) if few else [file])
    ]
    parts.sort(key=lambda item: -item[1].rows)
    return [
        Task(i, part.path, job.versions[night], part.first, part.rows, _folder(job, night, part))
        for i, (night, part) in enumerate(parts)
    ]


def _split_by_row_group(work: ScoringWork, file: FeatureFile) -> Iterator[FeatureFile]:
    import pyarrow.parquet as pq

    table = work.pipeline.feature_table
    with open_data_file(place_of(work.settings, table).open(), file.path, table) as opened:
        groups = row_groups(pq.read_metadata(opened))
    for rows in groups:
        first = max(rows.start, file.first)
        if first < rows.stop:
            yield replace(file, first=first, rows=rows.stop - first)


def _folder(job: ScoringJob, night: date, part: FeatureFile) -> str:
    folders = [job.folder]
    folders += [f"{AS_OF}={night.isoformat()}"] if len(job.files) > 1 else []
    folders += [f"shard={part.shard}"] if job.sharded else []
    return "/".join(folders)


def model_features(pipeline: Pipeline, inputs: Sequence[str]) -> list[str]:
    """The pipeline's features in the order in which the model takes them; InputError if it takes another column."""
    missing = [name for name in inputs if name not in pipeline.feature_names]
    if missing:
        raise InputError(
            f"The model of pipeline {pipeline.name!r} takes the column {missing[0]!r}, which is not a feature.",
            remedy="Train a model on the features as they are declared now.",
        )
    return list(inputs or pipeline.feature_names)


def progress_of(shards: tuple[int, int], rows: tuple[int, int], seconds: float) -> tuple[str, float | None]:
    """Shards done, rows per second and time left, as a message and a share; both have done and all, unfinished shards
    included."""
    about = f"scoring {rows[1]:,} rows"
    if not rows[0] or not shards[1]:
        return about, None
    share = min(1.0, rows[0] / rows[1])
    left = seconds * (1 - share) / share
    time_left = f"{left:.0f} s" if left < 120 else f"{left / 60:.0f} min"
    rate = rows[1] * share / seconds
    return f"{about}: {shards[0]} of {shards[1]} shards, {rate:,.0f} rows/s, {time_left} left", share
