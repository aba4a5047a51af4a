"""Scoring with Spark: feature files in, the model as a column function, shards out; nothing is visible yet."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import reduce
from typing import TYPE_CHECKING, Any

from forecache.errors import ForecacheError, InputError, UnavailableError
from forecache.lake.spark import spark_path
from forecache.pipeline import AS_OF, Pipeline, Segment
from forecache.results import Progress
from forecache.scoring.engines import Plan
from forecache.scoring.night import FeatureFile
from forecache.scoring.rows import Stamp
from forecache.scoring.udf import ScoringUdf
from forecache.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

_ONE_FILE_A_TASK = 1 << 40
_SPLIT_BYTES = 32 << 20


@dataclass(frozen=True)
class Job:
    """One Spark job: the feature files of some nights into a folder below the prediction table.

    Attributes:
        files: Feature files to score, by night.
        versions: Feature table version of each night.
        sharded: One task and one output folder for each feature file, so that a later run can take up what is done.
    """

    files: Mapping[date, Sequence[FeatureFile]]
    versions: Mapping[date, int]
    folder: str
    sharded: bool

    @property
    def rows(self) -> int:
        return sum(file.rows for files in self.files.values() for file in files)


def score_job(
    spark: "SparkSession",
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
    """Run a job; its files lie in its folder afterwards.

    Raises:
        InputError: The features do not fit the model.
        UnavailableError: No space is left on the device.
    """
    session = _own_session(spark, job, batch_rows)
    frame = _features(session, settings, pipeline, job)
    scored = _scored(frame, pipeline, ScoringUdf(session, plan), job, stamp)
    folder = f"{spark_path(settings.table_uri(table))}/{job.folder}"
    partitions = [*([AS_OF] if len(job.files) > 1 else []), *(["shard"] if job.sharded else [])]
    writer = (
        scored.write.mode("append")
        .option("mapreduce.fileoutputcommitter.algorithm.version", "2")
        .option("mapreduce.fileoutputcommitter.marksuccessfuljobs", "false")
    )
    if partitions:
        writer = writer.partitionBy(*partitions)
    with _told(session, job, progress), _known_errors():
        writer.parquet(folder)


def _own_session(spark: "SparkSession", job: Job, batch_rows: int) -> "SparkSession":
    """A session with this job's configuration, on the same cluster: the caller's stays as it is."""
    session = spark.newSession()
    whole = job.sharded or len(job.files) > 1
    for key, value in {
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.sql.execution.arrow.maxRecordsPerBatch": batch_rows,
        "spark.sql.files.maxPartitionBytes": _ONE_FILE_A_TASK if job.sharded else _SPLIT_BYTES,
        "spark.sql.files.openCostInBytes": _ONE_FILE_A_TASK if job.sharded else 1 << 20,
        # Rows of a partition lie together in a feature file, so that sorting by it first would only cost.
        "spark.sql.maxConcurrentOutputFileWriters": 64 if whole else 0,
        "spark.databricks.delta.formatCheck.enabled": "false",
    }.items():
        session.conf.set(key, str(value))
    return session


def _features(spark: "SparkSession", settings: Settings, pipeline: Pipeline, job: Job) -> "DataFrame":
    from pyspark.sql.types import DateType, FloatType, StructField, StructType

    known = _table_schema(spark, settings, pipeline)
    fields = [known[name] for name in pipeline.key]
    fields += [StructField(name, FloatType()) for name in pipeline.features.names]
    root = spark_path(settings.table_uri(pipeline.feature_table))
    reader = spark.read.schema(StructType([*fields, StructField(AS_OF, DateType())])).option("basePath", root)
    return reader.parquet(*(f"{root}/{file.path}" for files in job.files.values() for file in files))


def _table_schema(spark: "SparkSession", settings: Settings, pipeline: Pipeline) -> dict[str, Any]:
    from pyspark.sql.types import StructType

    from forecache.lake.tables import open_table

    schema = StructType.fromJson(_json(open_table(settings, pipeline.feature_table).schema().to_json()))
    return {field.name: field for field in schema.fields}


def _json(text: str) -> dict[str, Any]:
    import json

    return json.loads(text)


def _scored(features: "DataFrame", pipeline: Pipeline, model: ScoringUdf, job: Job, stamp: Stamp) -> "DataFrame":
    from pyspark.sql import functions as F

    names = model_features(pipeline, model.inputs)
    predicted = model(F.array(*names))
    value = predicted if model.shape == "scalar" else predicted[pipeline.output.name]
    output = F.col(pipeline.output.name)
    kept = [*pipeline.key, AS_OF, *(["shard"] if job.sharded else [])]
    with_shard = features.withColumn("shard", F.col("_metadata.file_name")) if job.sharded else features
    # An output that is not a number counts as missing: NaN would pass every comparison and every null count.
    number = F.nanvl(value.cast("double"), F.lit(None).cast("double")).alias(pipeline.output.name)
    version = reduce(
        lambda column, item: column.when(F.col(AS_OF) == F.lit(item[0]), F.lit(item[1])),
        list(job.versions.items()),
        F,
    )
    constants = {
        "model_name": F.lit(stamp.model_name),
        "model_version": F.lit(stamp.model_version).cast("int"),
        "feature_version": version.cast("bigint"),
        "scored_at": F.lit(stamp.scored_at),
        "run_id": F.lit(stamp.run_id),
    }
    segments = [_segment(segment, output).alias(segment.name) for segment in pipeline.segments]
    frame = with_shard.select(*kept, number)
    stamped = [column.alias(name) for name, column in constants.items()]
    frame = frame.select(*pipeline.key, output, *segments, *stamped, *kept[len(pipeline.key) :])
    return frame if len(job.files) > 1 else frame.drop(AS_OF)


def model_features(pipeline: Pipeline, inputs: Sequence[str]) -> list[str]:
    """The pipeline's features in the order in which the model takes them.

    Raises:
        InputError: The model takes a column that the pipeline does not compute.
    """
    missing = [name for name in inputs if name not in pipeline.features.names]
    if missing:
        raise InputError(
            f"The model of pipeline {pipeline.name!r} takes the column {missing[0]!r}, which is not a feature.",
            remedy="Train a model on the features as they are declared now.",
        )
    return list(inputs or pipeline.features.names)


def _segment(segment: Segment, output: "Column") -> "Column":
    from pyspark.sql import functions as F

    cut: Any = F
    for bound, label in zip(segment.bounds, segment.labels, strict=False):
        cut = cut.when(output < F.lit(bound), F.lit(label))
    last = F.when(output.isNotNull(), F.lit(segment.labels[-1]))
    return cut.otherwise(last) if segment.bounds else last


@contextmanager
def _told(session: "SparkSession", job: Job, progress: Progress) -> Iterator[None]:
    """Tell every second how far the job is, from Spark's own counters."""
    context = session.sparkContext
    group = f"score {job.folder}"
    context.setJobGroup(group, f"Forecache: scoring {job.rows:,} rows")
    over = threading.Event()
    started = time.perf_counter()

    def tell() -> None:
        tracker = context.statusTracker()
        while not over.wait(1.0):
            stages = [
                info
                for job_id in tracker.getJobIdsForGroup(group)
                for stage in getattr(tracker.getJobInfo(job_id), "stageIds", ())
                if (info := tracker.getStageInfo(stage)) is not None
            ]
            total, done = sum(s.numTasks for s in stages), sum(s.numCompletedTasks for s in stages)
            progress(*sentence(done, total, job.rows, time.perf_counter() - started))

    teller = threading.Thread(target=tell, name="forecache-progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join(timeout=5)
        context.setLocalProperty("spark.jobGroup.id", None)  # type: ignore[arg-type]


def sentence(done: int, total: int, rows: int, seconds: float) -> tuple[str, float | None]:
    """Shards done, rows per second and time left, as a progress message and a share."""
    if not done or not total:
        return f"scoring {rows:,} rows", None
    share = done / total
    left = seconds * (1 - share) / share
    return f"{done} of {total} shards, {rows * share / seconds:,.0f} rows/s, {left:.0f} s left", share


@contextmanager
def _known_errors() -> Iterator[None]:
    from pyspark.errors import PySparkException

    try:
        yield
    except ForecacheError:
        raise
    except Exception as error:
        if not isinstance(error, PySparkException) and type(error).__name__ != "Py4JJavaError":
            raise
        text = str(error)
        if "No space left on device" in text:
            raise UnavailableError(
                "The disk is full: scoring was given up and the predictions are as they were.",
                remedy="Free some space and run again; the scored shards are kept.",
            ) from error
        for line in text.splitlines():
            kind, _, message = line.partition(": ")
            if kind.startswith("forecache.errors."):
                raise InputError(message) from error
        raise
