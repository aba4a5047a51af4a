"""Scoring with Spark: it distributes the pieces of a job and tries again; Arrow reads, scores and writes them.

No row passes through the JVM. A task writes the parts of its pieces straight into the job's folder, each under a name
that does not depend on the attempt and whole or not at all: one that is tried twice, or in two places at once, leaves
the same bytes under the same names.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from forecache import errors
from forecache.errors import ForecacheError, UnavailableError
from forecache.inference.choose_runtime import Plan
from forecache.lake.spark.python_worker import settle, unpack_folder
from forecache.pipeline import Pipeline
from forecache.results import Progress
from forecache.scoring.memory import Peaks, own_peak, worker_peaks
from forecache.scoring.tasks.divide import pieces_of, recipe_of
from forecache.scoring.tasks.job import TELL_EVERY_S, Job, sentence
from forecache.scoring.tasks.prediction_rows import Stamp
from forecache.scoring.tasks.task import Piece, Recipe, Scorer
from forecache.settings import Settings

if TYPE_CHECKING:
    from pyspark import Accumulator, Broadcast, SparkContext
    from pyspark.sql import SparkSession

# A task costs some 10 ms of its own; so many rows take a few tenths of a second.
ROWS_A_TASK = 100_000


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
    context = spark.sparkContext
    cores = context.defaultParallelism
    recipe = recipe_of(settings, pipeline, table, plan, job, stamp, batch_rows=batch_rows, cores=cores)
    pieces = pieces_of(settings, pipeline, job, cores=cores)
    tasks = group(pieces, rows=min(ROWS_A_TASK, -(-job.rows // cores)))
    done, rows, peaks = context.accumulator(0), context.accumulator(0), worker_peaks(context)
    model = context.broadcast(plan.payload)
    task = _task(recipe, model, done, rows, peaks)
    with _told(context, job, lambda: ((done.value, len(pieces)), (rows.value, job.rows)), progress), known_errors():
        context.parallelize(tasks, len(tasks)).foreachPartition(task)
    return peaks.value


def group(pieces: Sequence[Piece], *, rows: int) -> list[list[Piece]]:
    """Pieces that share a task, in their order: so many that each has at least these rows, but for the last."""
    tasks: list[list[Piece]] = [[]]
    for piece in pieces:
        if sum(other.rows for other in tasks[-1]) >= rows:
            tasks.append([])
        tasks[-1].append(piece)
    return tasks


def _task(
    recipe: Recipe,
    model: "Broadcast[bytes]",
    done: "Accumulator[int]",
    rows: "Accumulator[int]",
    peaks: "Accumulator[Peaks]",
) -> Callable[[Iterable[list[Piece]]], None]:
    # The recipe has an object store's secrets: it travels in the function, which Spark logs nowhere.
    def score_pieces(given: Iterable[list[Piece]]) -> None:
        scorer = Scorer(recipe, lambda: model.value, unpack_folder)
        for pieces in given:
            for piece in pieces:
                scorer.score(piece, rows.add)
                done.add(1)
        settle()
        peaks.add(own_peak())

    return score_pieces


@contextmanager
def _told(
    context: "SparkContext",
    job: Job,
    far: Callable[[], tuple[tuple[int, int], tuple[int, int]]],
    progress: Progress,
) -> Iterator[None]:
    """Tell every second how far the job is; it moves as tasks end."""
    context.setJobGroup(f"score {job.folder}", f"Forecache: scoring {job.rows:,} rows")
    over = threading.Event()
    started = time.perf_counter()

    def tell() -> None:
        while not over.wait(TELL_EVERY_S):
            progress(*sentence(*far(), time.perf_counter() - started))

    teller = threading.Thread(target=tell, name="forecache-progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join(timeout=5)
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
