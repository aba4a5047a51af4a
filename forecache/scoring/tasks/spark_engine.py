"""Scoring with Spark: it distributes the tasks of a job and tries again; Arrow reads, scores and writes them.

No row passes through the JVM. A task writes its parts straight into the job's folder, each under a name that does not
depend on the attempt and whole or not at all: one that is tried twice, or in two places at once, leaves the same bytes
under the same names.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from forecache import errors
from forecache.errors import ForecacheError, UnavailableError
from forecache.lake.spark.python_worker import freeze_loaded, unpack_folder
from forecache.scoring.memory import Peaks, own_peak, worker_peaks
from forecache.scoring.tasks.job import REPORT_EVERY_S, Job, job_spec, progress_of, tasks_of
from forecache.scoring.tasks.task import JobSpec, Scorer, Task
from forecache.scoring.work import Work

if TYPE_CHECKING:
    from pyspark import Accumulator, Broadcast, SparkContext

# A task of Spark's costs some 10 ms of its own; so many rows take a few tenths of a second.
ROWS_A_SPARK_TASK = 100_000


def score_with_spark(work: Work, job: Job) -> Peaks:
    """Run a job; its files lie in its folder afterwards.

    Returns:
        The largest memory of each worker that scored.

    Raises:
        InputError: The features do not fit the model.
        UnavailableError: No space is left on the device.
    """
    assert work.spark is not None
    context = work.spark.sparkContext
    spec = job_spec(work, part_rows=job.part_rows(work.cores))
    tasks = tasks_of(work, job)
    groups = group(tasks, rows=min(ROWS_A_SPARK_TASK, -(-job.rows // work.cores)))
    done, rows, peaks = context.accumulator(0), context.accumulator(0), worker_peaks(context)

    def report(seconds: float) -> None:
        work.progress(*progress_of((done.value, len(tasks)), (rows.value, job.rows), seconds))

    score_groups = _scoring(spec, context.broadcast(work.plan.payload), done, rows, peaks)
    with _reported(context, job, report), known_errors():
        context.parallelize(groups, len(groups)).foreachPartition(score_groups)
    return peaks.value


def group(tasks: Sequence[Task], *, rows: int) -> list[list[Task]]:
    """Tasks that share one of Spark's, in their order: so many that each has at least these rows, but for the last."""
    groups: list[list[Task]] = [[]]
    for task in tasks:
        if sum(other.rows for other in groups[-1]) >= rows:
            groups.append([])
        groups[-1].append(task)
    return groups


def _scoring(
    spec: JobSpec,
    model: "Broadcast[bytes]",
    done: "Accumulator[int]",
    rows: "Accumulator[int]",
    peaks: "Accumulator[Peaks]",
) -> Callable[[Iterable[list[Task]]], None]:
    # The spec has an object store's secrets: it travels in the function, which Spark logs nowhere.
    def score_groups(groups: Iterable[list[Task]]) -> None:
        scorer = Scorer(spec, lambda: model.value, unpack_folder)
        for tasks in groups:
            for task in tasks:
                scorer.score(task, rows.add)
                done.add(1)
        freeze_loaded()
        peaks.add(own_peak())

    return score_groups


@contextmanager
def _reported(context: "SparkContext", job: Job, report: Callable[[float], None]) -> Iterator[None]:
    """Report every second while the job runs; `report` gets the seconds since its start."""
    context.setJobGroup(f"score {job.folder}", f"Forecache: scoring {job.rows:,} rows")
    over = threading.Event()
    started = time.perf_counter()

    def keep_reporting() -> None:
        while not over.wait(REPORT_EVERY_S):
            report(time.perf_counter() - started)

    reporter = threading.Thread(target=keep_reporting, name="forecache-progress", daemon=True)
    reporter.start()
    try:
        yield
    finally:
        over.set()
        reporter.join(timeout=5)
        context.setLocalProperty("spark.jobGroup.id", None)  # type: ignore[arg-type]


@contextmanager
def known_errors() -> Iterator[None]:
    """A worker's error as it was raised there, from what Spark says of the task that failed."""
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
                raise getattr(errors, kind.rpartition(".")[2])(message) from error
        raise
