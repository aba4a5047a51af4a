"""Scoring on one machine without a JVM: Parquet, the same kernel, Parquet; one thread a core, batches of fixed size.

Memory does not grow with the table: every thread holds one batch of features and the row group that it writes.
"""

import os
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import partial

from forecache.inference.choose_runtime import Plan
from forecache.pipeline import Pipeline
from forecache.results import Progress
from forecache.scoring.memory import Peaks, own_peak
from forecache.scoring.tasks.divide import pieces_of, recipe_of
from forecache.scoring.tasks.job import TELL_EVERY_S, Job, sentence
from forecache.scoring.tasks.prediction_rows import Stamp
from forecache.scoring.tasks.task import Scorer
from forecache.settings import Settings

BATCH_ROWS = 32_768


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
) -> Peaks:
    """Run a job; its files lie in its folder afterwards.

    Returns:
        The largest memory of this process.

    Raises:
        InputError: The features do not fit the model.
        UnavailableError: No space is left on the device.
    """
    workers = num_threads(plan)
    recipe = recipe_of(settings, pipeline, table, plan, job, stamp, batch_rows=batch_rows, cores=workers)
    pieces = pieces_of(settings, pipeline, job, cores=workers)
    scorer = Scorer(recipe, lambda: plan.payload, lambda: models_folder(settings))
    started, done = time.perf_counter(), [0] * len(pieces)

    def count(position: int, rows: int) -> None:
        done[position] += rows

    with ThreadPoolExecutor(workers, thread_name_prefix="forecache-score") as pool:
        waiting = {pool.submit(scorer.score, piece, partial(count, piece.number)) for piece in pieces}
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
    return own_peak()


def num_threads(plan: Plan) -> int:
    """Threads that score; a model in plain Python holds the interpreter, and may not expect two."""
    return 1 if plan.spec.runtime == "pyfunc" else num_cores()


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def models_folder(settings: Settings) -> str:
    """Where this machine unpacks models that are folders."""
    folder = settings.home_path / "scoring" / "models"
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)
