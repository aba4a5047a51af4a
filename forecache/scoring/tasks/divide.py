"""A scoring job divided into pieces that threads or tasks score on their own, and what these have in common."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import date

from forecache.inference.choose_runtime import Plan
from forecache.inference.outputs import output_position
from forecache.lake.delta.files import place_of
from forecache.pipeline import AS_OF, Pipeline
from forecache.scoring.night import FeatureFile
from forecache.scoring.partitions.staged_files import lake_filesystem
from forecache.scoring.tasks.job import Job, model_features
from forecache.scoring.tasks.prediction_rows import Stamp, layout_of
from forecache.scoring.tasks.task import Piece, Recipe, row_groups
from forecache.settings import Settings


def recipe_of(
    settings: Settings,
    pipeline: Pipeline,
    table: str,
    plan: Plan,
    job: Job,
    stamp: Stamp,
    *,
    batch_rows: int,
    cores: int,
) -> Recipe:
    """What the pieces of a job have in common.

    Raises:
        InputError: The model takes a column that the pipeline does not compute, or returns no output of its name.
    """
    output_position(plan.spec, pipeline.output.name)
    return Recipe(
        place_of(settings, pipeline.feature_table),
        place_of(settings, table),
        plan.spec,
        tuple(model_features(pipeline, plan.spec.inputs)),
        layout_of(pipeline),
        stamp,
        batch_rows,
        job.part_rows(cores) if job.sharded else job.rows,
    )


def pieces_of(settings: Settings, pipeline: Pipeline, job: Job, *, cores: int) -> list[Piece]:
    """One piece a file, or a row group where there are fewer files than cores; the largest first."""
    few = sum(len(files) for files in job.files.values()) < cores
    parts = [
        (night, part)
        for night, files in job.files.items()
        for file in files
        for part in (_by_row_group(settings, pipeline, file) if few else [file])
    ]
    parts.sort(key=lambda item: -item[1].rows)
    return [
        Piece(i, part.path, job.versions[night], part.first, part.rows, _folder(job, night, part))
        for i, (night, part) in enumerate(parts)
    ]


def _by_row_group(settings: Settings, pipeline: Pipeline, file: FeatureFile) -> Iterator[FeatureFile]:
    import pyarrow.parquet as pq

    with lake_filesystem(settings, pipeline.feature_table).open_input_file(file.path) as opened:
        groups = row_groups(pq.read_metadata(opened))
    for rows in groups:
        first = max(rows.start, file.first)
        if first < rows.stop:
            yield replace(file, first=first, rows=rows.stop - first)


def _folder(job: Job, night: date, part: FeatureFile) -> str:
    folders = [job.folder]
    folders += [f"{AS_OF}={night.isoformat()}"] if len(job.files) > 1 else []
    folders += [f"shard={part.shard}"] if job.sharded else []
    return "/".join(folders)
