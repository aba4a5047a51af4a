"""The engines that run the tasks of a job: Arrow on one machine without a JVM, or Spark.

Arrow: Parquet, the kernel, Parquet; one thread a core, batches of fixed size. Memory does not grow with the table:
every thread holds one batch of features and the row group that it writes.

Spark distributes the tasks and retries them; no row passes through the JVM. A task writes its parts directly into the
job's folder, each atomically and under a name that does not depend on the attempt: a task that runs twice, also at the
same time, leaves the same files.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from forecache.base import errors
from forecache.base.errors import ForecacheError, UnavailableError
from forecache.kit.process.periodic import PeriodicThread
from forecache.kit.process.wakes import SCORING_PROGRESS
from forecache.kit.spark.python_worker import freeze_loaded, unpack_folder
from forecache.scoring.night_inputs import ScoringWork
from forecache.scoring.tasks.job import REPORT_EVERY_S, ScoringJob, job_spec, local_scorer, progress_of, tasks_of
from forecache.scoring.tasks.task import JobSpec, Peaks, Task, TaskScorer, own_peak, worker_peaks

if TYPE_CHECKING:
    from pyspark import Accumulator, Broadcast, SparkContext


def score_with_arrow(work: ScoringWork, job: ScoringJob) -> Peaks:
    """Run a job, which writes its files into its folder; returns the largest memory of this process."""
    scorer = local_scorer(work, part_rows=job.part_rows(work.cores))
    tasks = tasks_of(work, job)
    started, done = time.perf_counter(), [0] * len(tasks)

    def count(position: int, rows: int) -> None:
        done[position] += rows

    with ThreadPoolExecutor(work.cores, thread_name_prefix="forecache-score") as pool:
        waiting = {pool.submit(scorer.score, task, partial(count, task.number)) for task in tasks}
        try:
            while waiting:
                finished, waiting = wait(waiting, timeout=REPORT_EVERY_S, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                shards = (len(tasks) - len(waiting), len(tasks))
                work.progress(*progress_of(shards, (sum(done), job.rows), time.perf_counter() - started))
        finally:
            for future in waiting:
                future.cancel()
    return own_peak()


# A task has an overhead of about 10 ms in Spark; this number of rows takes a few tenths of a second.
ROWS_A_SPARK_TASK = 100_000


def score_with_spark(work: ScoringWork, job: ScoringJob) -> Peaks:
    """Run a job, which writes its files into its folder; returns the largest memory of each worker that scored."""
    context = work.engine.session().sparkContext
    spec = job_spec(work, part_rows=job.part_rows(work.cores))
    tasks = tasks_of(work, job)
    groups = group_tasks(tasks, rows=min(ROWS_A_SPARK_TASK, -(-job.rows // work.cores)))
    done, rows, peaks = context.accumulator(0), context.accumulator(0), worker_peaks(context)

    def report(seconds: float) -> None:
        work.progress(*progress_of((done.value, len(tasks)), (rows.value, job.rows), seconds))

    score_groups = _scoring_function(spec, context.broadcast(work.plan.payload), done, rows, peaks)
    with _report_progress(context, job, report), raise_known_errors():
        context.parallelize(groups, len(groups)).foreachPartition(score_groups)
    return peaks.value


def group_tasks(tasks: Sequence[Task], *, rows: int) -> list[list[Task]]:
    """Group tasks, in their order, into Spark tasks of at least this number of rows, except for the last."""
    groups: list[list[Task]] = [[]]
    for task in tasks:
        if sum(other.rows for other in groups[-1]) >= rows:
            groups.append([])
        groups[-1].append(task)
    return groups


def _scoring_function(
    spec: JobSpec,
    model: "Broadcast[bytes]",
    done: "Accumulator[int]",
    rows: "Accumulator[int]",
    peaks: "Accumulator[Peaks]",
) -> Callable[[Iterable[list[Task]]], None]:
    # The spec has an object store's secrets: it travels in the function, which Spark logs nowhere.
    def score_groups(groups: Iterable[list[Task]]) -> None:
        scorer = TaskScorer(spec, lambda: model.value, unpack_folder)
        for tasks in groups:
            for task in tasks:
                scorer.score(task, rows.add)
                done.add(1)
        freeze_loaded()
        peaks.add(own_peak())

    return score_groups


@contextmanager
def _report_progress(context: "SparkContext", job: ScoringJob, report: Callable[[float], None]) -> Iterator[None]:
    """Call `report` every second while the job runs, with the seconds since its start."""
    context.setJobGroup(f"score {job.folder}", f"Forecache: scoring {job.rows:,} rows")
    started = time.perf_counter()
    reporter = PeriodicThread(
        SCORING_PROGRESS,
        lambda: report(time.perf_counter() - started),
        every_s=lambda: REPORT_EVERY_S,
        close_s=5.0,
    )
    try:
        with reporter:
            yield
    finally:
        context.setLocalProperty("spark.jobGroup.id", None)  # type: ignore[arg-type]


@contextmanager
def raise_known_errors() -> Iterator[None]:
    """Raise a worker's error as it was raised there, from Spark's message about the failed task."""
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
            if kind.startswith("forecache.base.errors."):
                raise getattr(errors, kind.rpartition(".")[2])(message) from error
        raise
