"""Adds a sample to the history every two seconds, in the worker that has the task; another one has it after that."""

import time
from collections.abc import Sequence

from forecache.reader.http.extension import Extension
from forecache.reader.processes.metrics import HITS, MISSES, ROUTE, STALE_HITS, WorkerMetrics
from forecache.reader.processes.shared_memory import Runtime
from forecache.reader.status.history import STEP_S, Counted, History, traffic_of
from forecache.reader.versions.watcher import RunOnLoop

ANSWERING = tuple(ROUTE[name] for name in ("one", "many", "feast", "realtime"))
"""The routes of requests for keys and to real-time models; people and probes use the others."""


class Recorder:
    """Adds a sample to the history every two seconds, in the one worker that has this task."""

    def __init__(self, runtime: Runtime, extensions: Sequence[Extension]) -> None:
        self._runtime, self._extensions = runtime, extensions
        self._history = History(runtime.history)
        self._workers = [WorkerMetrics(runtime.slot(index)) for index in range(runtime.num_slots)]
        self._step = 0

    def turn(self, _: RunOnLoop) -> None:
        """Add a sample if one is due and this worker has the task; the watching thread calls it after each poll."""
        clock_s = time.monotonic()
        step = int(clock_s) // STEP_S
        if step == self._step or not self._runtime.records():
            return
        self._step = step
        models: dict[str, Counted] = {}
        for extension in self._extensions:
            models.update(extension.counted())
        traffic = traffic_of(self._workers, ANSWERING)
        self._history.add(time.time(), traffic, keys_of(self._workers), models, clock_s=clock_s)


def keys_of(workers: Sequence[WorkerMetrics]) -> dict[str, tuple[int, int]]:
    """(keys found, keys not found) by pipeline, of all workers since the reader started."""
    found: dict[str, tuple[int, int]] = {}
    for worker in workers:
        cells = worker.cells
        for name, offset in worker.pipelines():
            hits, misses = found.get(name, (0, 0))
            hits += cells[offset + HITS] + cells[offset + STALE_HITS]
            found[name] = hits, misses + cells[offset + MISSES]
    return found
