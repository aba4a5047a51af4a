"""Scoring with Spark: feature files in, the model as a column function, shards out; nothing is visible yet."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from forecache.errors import ForecacheError, InputError, UnavailableError
from forecache.lake.spark import spark_path
from forecache.pipeline import Pipeline
from forecache.results import Progress
from forecache.scoring.engines import Plan
from forecache.scoring.job import TELL_EVERY_S, Job, model_features, sentence
from forecache.scoring.rows import Stamp
from forecache.scoring.spark_frames import predicted, read_features, stamped, with_features
from forecache.scoring.udf import ScoringUdf
from forecache.scoring.usage import Peaks, worker_peaks
from forecache.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# A task costs some 10 ms of its own; so many rows take a few tenths of a second.
ROWS_A_TASK = 100_000
_SPLIT_BYTES = 32 << 20


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
) -> Peaks:
    """Run a job; its files lie in its folder afterwards.

    Returns:
        The largest memory of each worker that scored.

    Raises:
        InputError: The features do not fit the model.
        UnavailableError: No space is left on the device.
    """
    session = own_session(spark, job, batch_rows)
    features = read_features(session, settings, pipeline, job)
    peaks = worker_peaks(session.sparkContext)
    model = ScoringUdf(session, plan, peaks)
    value = model("features")
    output = value if model.shape == "scalar" else value[pipeline.output.name]
    narrow = with_features(features, pipeline, model_features(pipeline, model.inputs), job)
    rows = stamped(predicted(narrow, pipeline, output, sharded=job.sharded), pipeline, job, stamp)
    write_shards(session, rows, settings, table, job, progress=progress)
    return peaks.value


def write_shards(
    session: "SparkSession", rows: "DataFrame", settings: Settings, table: str, job: Job, *, progress: Progress
) -> None:
    """Write rows of the prediction table into the job's folder; a file appears when its task has ended."""
    writer = (
        rows.write.mode("append")
        .option("mapreduce.fileoutputcommitter.algorithm.version", "2")
        .option("mapreduce.fileoutputcommitter.marksuccessfuljobs", "false")
    )
    if job.partition_columns:
        writer = writer.partitionBy(*job.partition_columns)
    with _told(session, job, progress), _known_errors():
        writer.parquet(f"{spark_path(settings.table_uri(table))}/{job.folder}")


def own_session(spark: "SparkSession", job: Job, batch_rows: int) -> "SparkSession":
    """A session with this job's configuration, on the same cluster: the caller's stays as it is."""
    session = spark.newSession()
    several = bool(job.partition_columns)
    for key, value in {
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.sql.execution.arrow.maxRecordsPerBatch": batch_rows,
        "spark.sql.files.maxPartitionBytes": _bytes_a_task(spark, job) if job.sharded else _SPLIT_BYTES,
        "spark.sql.files.openCostInBytes": 0 if job.sharded else 1 << 20,
        **({"spark.sql.files.minPartitionNum": 1} if job.sharded else {}),
        # A part is complete in the task's own folder before the task is, and a later run finds it there.
        "spark.sql.files.maxRecordsPerFile": job.part_rows(spark.sparkContext.defaultParallelism) if job.sharded else 0,
        # Rows of a partition lie together in a feature file, so that sorting by it first would only cost.
        "spark.sql.maxConcurrentOutputFileWriters": 64 if several else 0,
        "spark.databricks.delta.formatCheck.enabled": "false",
    }.items():
        session.conf.set(key, str(value))
    return session


def _bytes_a_task(spark: "SparkSession", job: Job) -> int:
    """So that no feature file is split, and a task has enough of them to be worth its start."""
    sizes = [file.size_bytes for files in job.files.values() for file in files]
    tasks = max(spark.sparkContext.defaultParallelism, round(job.rows / ROWS_A_TASK))
    return max(max(sizes), round(1.05 * sum(sizes) / tasks))


@contextmanager
def _told(session: "SparkSession", job: Job, progress: Progress) -> Iterator[None]:
    """Tell every second how far the job is, from Spark's own counters; it moves as tasks end."""
    context = session.sparkContext
    group = f"score {job.folder}"
    context.setJobGroup(group, f"Forecache: scoring {job.rows:,} rows")
    over = threading.Event()
    started = time.perf_counter()

    def tell() -> None:
        tracker = context.statusTracker()
        while not over.wait(TELL_EVERY_S):
            stages = [
                info
                for job_id in tracker.getJobIdsForGroup(group)
                for stage in getattr(tracker.getJobInfo(job_id), "stageIds", ())
                if (info := tracker.getStageInfo(stage)) is not None
            ]
            total, done = sum(s.numTasks for s in stages), sum(s.numCompletedTasks for s in stages)
            rows = job.rows * done // max(1, total)
            progress(*sentence((done, total), (rows, job.rows), time.perf_counter() - started))

    teller = threading.Thread(target=tell, name="forecache-progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join(timeout=5)
        context.setLocalProperty("spark.jobGroup.id", None)  # type: ignore[arg-type]


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
