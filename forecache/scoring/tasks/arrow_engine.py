"""Scoring on one machine without a JVM: Parquet, the same kernel, Parquet; one thread a core, batches of fixed size.

Memory does not grow with the table: every thread holds one batch of features and the row group that it writes.
"""

import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import partial

from forecache.scoring.memory import Peaks, own_peak
from forecache.scoring.run_context import ScoringWork
from forecache.scoring.tasks.job import REPORT_EVERY_S, ScoringJob, local_scorer, progress_of, tasks_of


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
