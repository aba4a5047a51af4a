"""A pool of worker processes for publishing, or none where the work is too small to pay for them."""

import json
import os
import selectors
import subprocess
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from forecache import errors
from forecache.errors import ForecacheError
from forecache.settings import PROJECT_ROOT

INLINE_ROWS = 300_000
"""Up to here one process is done before others have started."""

_MAX_WORKERS = 8


def num_workers(rows: int) -> int:
    """Worker processes for so many rows; 0: do it in this process."""
    return 0 if rows <= INLINE_ROWS else num_cores()


def num_cores() -> int:
    """Cores that a publish may keep busy."""
    return min(len(os.sched_getaffinity(0)), _MAX_WORKERS)


class Pool:
    """Runs jobs of `forecache.store.encoding.jobs` by name. With 0 workers they run in this process."""

    def __init__(self, workers: int) -> None:
        self.workers = [_start() for _ in range(workers)]

    def map(
        self,
        function: str,
        jobs: Sequence[dict[str, Any]],
        *,
        done: Callable[[int], None] = lambda count: None,
    ) -> list[dict[str, Any]]:
        """Results of every job, in order; a failed job raises its error here.

        Args:
            done: Called with the number of finished jobs after each.
        """
        if not self.workers:
            return self._map_inline(function, jobs, done)
        results: list[dict[str, Any] | None] = [None] * len(jobs)
        waiting = list(range(len(jobs)))[::-1]
        running: dict[int, int] = {}
        selector = selectors.DefaultSelector()
        for number, worker in enumerate(self.workers):
            assert worker.stdout is not None
            selector.register(worker.stdout, selectors.EVENT_READ, number)
            if waiting:
                running[number] = waiting.pop()
                _send(worker, function, jobs[running[number]])
        finished = 0
        while running:
            for key, _ in selector.select():
                number = key.data
                if number not in running:
                    continue
                results[running.pop(number)] = _receive(self.workers[number])
                finished += 1
                done(finished)
                if waiting:
                    running[number] = waiting.pop()
                    _send(self.workers[number], function, jobs[running[number]])
        selector.close()
        return [result for result in results if result is not None]

    def _map_inline(
        self, function: str, jobs: Sequence[dict[str, Any]], done: Callable[[int], None]
    ) -> list[dict[str, Any]]:
        from forecache.store.encoding.jobs import JOBS

        results = []
        for job in jobs:
            results.append(JOBS[function](**job))
            done(len(results))
        return results

    def close(self) -> None:
        for worker in self.workers:
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.close()
            worker.wait()
            worker.stdout.close()
        self.workers = []

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _start() -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(PROJECT_ROOT), *filter(None, sys.path)])
    return subprocess.Popen(
        [sys.executable, "-m", "forecache.store.encoding.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )


def _send(worker: subprocess.Popen[bytes], function: str, arguments: dict[str, Any]) -> None:
    assert worker.stdin is not None
    worker.stdin.write(json.dumps({"function": function, "arguments": arguments}).encode() + b"\n")


def _receive(worker: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise ForecacheError(
            f"A publishing worker process died with status {worker.wait()}.",
            remedy="It may have run out of memory; nothing was published.",
        )
    answer = json.loads(line)
    if "error" not in answer:
        result: dict[str, Any] = answer["result"]
        return result
    if not answer["error"]:
        raise RuntimeError(f"A publishing worker failed:\n{answer['message']}")
    kind: type[ForecacheError] = getattr(errors, answer["error"])
    raise kind(answer["message"], remedy=answer["remedy"])
