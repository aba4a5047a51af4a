"""Scoring on one machine without a JVM: Parquet, the same kernel, Parquet; one thread a core, batches of fixed size.

Memory does not grow with the table: every thread holds one batch of features and the row group that it writes.
"""

import errno
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from itertools import chain, islice
from typing import Any

import numpy as np
import pyarrow as pa

from forecache.errors import UnavailableError
from forecache.pipeline import AS_OF, Pipeline
from forecache.results import Progress
from forecache.scoring.engines import Plan
from forecache.scoring.job import TELL_EVERY_S, Job, model_features, sentence
from forecache.scoring.kernel import load_kernel
from forecache.scoring.night import FeatureFile
from forecache.scoring.rows import Stamp, prediction_columns, prediction_rows
from forecache.scoring.runtimes import Kernel
from forecache.scoring.staging import lake_filesystem
from forecache.settings import Settings

BATCH_ROWS = 32_768
_ROW_GROUP_ROWS = 500_000


@dataclass(frozen=True)
class _Piece:
    """Rows of a feature file that one thread scores: those of some row groups, without the first `skip`."""

    night: date
    file: FeatureFile
    groups: tuple[int, ...]
    skip: int
    rows: int
    folder: str


@dataclass(frozen=True)
class _Scorer:
    settings: Settings
    pipeline: Pipeline
    plan: Plan
    kernel: Kernel
    stamp: Stamp
    job: Job
    source: Any
    target: Any
    batch_rows: int
    part_rows: int


def score_job_with_arrow(
    settings: Settings,
    pipeline: Pipeline,
    table: str,
    plan: Plan,
    job: Job,
    stamp: Stamp,
    *,
    batch_rows: int,
    progress: Progress,
) -> None:
    """Run a job; its files lie in its folder afterwards, as if Spark had written them.

    Raises:
        InputError: The features do not fit the model.
        UnavailableError: No space is left on the device.
    """
    if "://" not in settings.table_uri(table):
        os.makedirs(settings.table_uri(table), exist_ok=True)
    kernel = load_kernel(plan.spec, lambda: plan.payload, lambda: models_folder(settings))
    source = lake_filesystem(settings, pipeline.feature_table)
    target = lake_filesystem(settings, table)
    workers = num_threads(plan)
    part_rows = job.part_rows(workers) if job.sharded else job.rows
    scorer = _Scorer(settings, pipeline, plan, kernel, stamp, job, source, target, batch_rows, part_rows)
    pieces = _pieces(scorer, workers)
    started, done = time.perf_counter(), [0] * len(pieces)
    with ThreadPoolExecutor(workers, thread_name_prefix="forecache-score") as pool:
        waiting = {pool.submit(_score_piece, scorer, piece, done, i) for i, piece in enumerate(pieces)}
        try:
            while waiting:
                finished, waiting = wait(waiting, timeout=TELL_EVERY_S, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                shards = (len(pieces) - len(waiting), len(pieces))
                progress(*sentence(shards, (sum(done), job.rows), time.perf_counter() - started))
        finally:
            for future in waiting:
                future.cancel()


def num_threads(plan: Plan) -> int:
    """Threads that score; a model in plain Python holds the interpreter, and may not expect two."""
    return 1 if plan.spec.engine == "pyfunc" else num_cores()


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def models_folder(settings: Settings) -> str:
    """Where this machine unpacks models that are folders."""
    folder = settings.home_path / "scoring" / "models"
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)


def _pieces(scorer: _Scorer, workers: int) -> list[_Piece]:
    """One piece a file, or a row group where there are fewer files than threads; the largest first."""
    job = scorer.job
    split = sum(len(files) for files in job.files.values()) < workers
    pieces = []
    for night, files in job.files.items():
        for file in files:
            groups = _row_groups(scorer, file)
            if split:
                pieces += [_piece(job, night, file, {i: groups[i]}) for i in groups]
            elif groups:
                pieces.append(_piece(job, night, file, groups))
    return sorted(pieces, key=lambda piece: -piece.rows)


def _piece(job: Job, night: date, file: FeatureFile, groups: Mapping[int, range]) -> _Piece:
    start, end = min(rows.start for rows in groups.values()), max(rows.stop for rows in groups.values())
    first = max(start, file.first)
    parts = [job.folder]
    parts += [f"{AS_OF}={night.isoformat()}"] if len(job.files) > 1 else []
    parts += [f"shard={replace(file, first=first).shard}"] if job.sharded else []
    return _Piece(night, file, tuple(groups), first - start, end - first, "/".join(parts))


def _row_groups(scorer: _Scorer, file: FeatureFile) -> dict[int, range]:
    """The row groups of a file that have wanted rows, and the rows of the file that each holds."""
    import pyarrow.parquet as pq

    with scorer.source.open_input_file(file.path) as opened:
        metadata = pq.read_metadata(opened)
    found, start = {}, 0
    for i in range(metadata.num_row_groups):
        rows = range(start, start + metadata.row_group(i).num_rows)
        start = rows.stop
        if rows and rows.stop > file.first:
            found[i] = rows
    return found


def _score_piece(scorer: _Scorer, piece: _Piece, done: list[int], position: int) -> None:
    """Score a piece into its file; counts its rows in `done[position]` as they are written."""
    import pyarrow.parquet as pq

    names = model_features(scorer.pipeline, scorer.plan.spec.inputs)
    version = scorer.job.versions[piece.night]
    with scorer.source.open_input_file(piece.file.path) as opened:
        parquet = pq.ParquetFile(opened)
        stored = set(parquet.schema_arrow.names)
        keys = [parquet.schema_arrow.field(name) for name in scorer.pipeline.key]
        schema = prediction_columns(scorer.pipeline, keys)
        wanted = [*scorer.pipeline.key, *(name for name in names if name in stored)]
        read = parquet.iter_batches(scorer.batch_rows, row_groups=list(piece.groups), columns=wanted, use_threads=False)
        batches = _without(read, piece.skip)
        batches_a_part = -(-scorer.part_rows // scorer.batch_rows)
        for part, first in enumerate(batches):
            with open_output(scorer.target, piece.folder, schema, part=part) as writer:
                for batch in chain([first], islice(batches, batches_a_part - 1)):
                    features = [_feature(batch, name, stored) for name in names]
                    values = score_values(scorer.kernel, features, scorer.plan, scorer.pipeline)
                    identity = [batch.column(name) for name in scorer.pipeline.key]
                    writer.write_batch(
                        prediction_rows(scorer.pipeline, identity, values, scorer.stamp, version, schema),
                        row_group_size=_ROW_GROUP_ROWS,
                    )
                    done[position] += batch.num_rows


def _without(batches: Iterable[pa.RecordBatch], skip: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if skip < batch.num_rows:
            yield batch.slice(skip)
        skip = max(0, skip - batch.num_rows)


def _feature(batch: pa.RecordBatch, name: str, stored: set[str]) -> pa.Array:
    # A feature declared after the file was written is unknown in it.
    return batch.column(name) if name in stored else pa.nulls(batch.num_rows, pa.float32())


def score_values(kernel: Kernel, features: list[pa.Array], plan: Plan, pipeline: Pipeline) -> np.ndarray:
    """The pipeline's output for a batch of feature columns in the model's order, float [n]."""
    outputs = [column.name for column in plan.spec.outputs]
    position = outputs.index(pipeline.output.name) if plan.spec.shape == "struct" else 0
    values = kernel.run(features)[position]
    return np.asarray(values).reshape(len(features[0]))


@contextmanager
def open_output(filesystem: Any, folder: str, schema: pa.Schema, *, part: int = 0) -> Iterator[Any]:
    """A Parquet writer whose file appears in the folder when it is complete, and not at all after an error.

    Args:
        part: Position of its rows among the files of a shard; it goes into the file's name, as in Spark's.

    Raises:
        UnavailableError: No space is left on the device.
    """
    import pyarrow.parquet as pq
    from pyarrow import fs

    local = isinstance(filesystem, fs.SubTreeFileSystem)
    name = f"{folder}/part-{uuid.uuid4().hex}.c{part:03d}.snappy.parquet"
    # An object appears at its close; a file does so by its name.
    draft = f"{folder}/.{uuid.uuid4().hex}.draft" if local else name
    repeating = [field.name for field in schema if field.name in ("model_version", "feature_version", "scored_at")]
    repeating += [field.name for field in schema if pa.types.is_dictionary(field.type)]
    options: dict[str, Any] = {"compression": "snappy", "use_dictionary": repeating, "store_schema": False}
    try:
        if local:
            filesystem.create_dir(folder, recursive=True)
        with (
            filesystem.open_output_stream(draft) as sink,
            pq.ParquetWriter(sink, schema, **options) as writer,
        ):
            yield writer
        if local:
            filesystem.move(draft, name)
    except OSError as error:
        if error.errno == errno.ENOSPC or "No space left" in str(error):
            raise UnavailableError(
                "The disk is full: scoring was given up and the predictions are as they were.",
                remedy="Free some space and run again; the scored shards are kept.",
            ) from error
        raise
