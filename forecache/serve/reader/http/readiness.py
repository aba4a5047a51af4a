"""Readiness of the reader: each worker notes its state in shared memory, and any of them answers for all."""

from collections.abc import Sequence
from enum import IntEnum

from forecache.serve.reader.http.extension import Extension, ExtensionContext
from forecache.serve.reader.worker_metrics import WorkerMetrics


class WorkerState(IntEnum):
    """The state that a worker notes in its slot. A slot that no worker has used yet is `STARTING`."""

    STARTING, READY, EMPTY, DAMAGED, EXTENSION, BEHIND, UNWATCHED = range(7)


_LOADING = "The reader is still reading the published versions into memory."
_REASONS = {
    WorkerState.STARTING: _LOADING,
    WorkerState.READY: "",
    WorkerState.EMPTY: "No pipeline has a published version that can be read.",
    WorkerState.BEHIND: "A worker of the reader waits until a live layer is near its stream.",
    WorkerState.EXTENSION: "A worker of the reader is still loading what it answers in real time.",
    WorkerState.UNWATCHED: "A worker of the reader cannot look for new versions; see the reader's log.",
}


class Readiness:
    """The readiness of one worker, and through the shared memory of all of them.

    A balancer's probe reaches one worker, and the requests that follow reach the others.
    """

    def __init__(self, context: ExtensionContext, extensions: Sequence[Extension]) -> None:
        self._runtime, self._metrics, self._catalog = context.runtime, context.metrics, context.catalog
        self._extensions, self._workers = extensions, context.settings.reader_workers
        self._slots = WorkerMetrics.open_all(context.runtime)
        # A replaced worker counts as ready from the start, once all were ready: its connections wait for it. Otherwise
        # one request that crashes workers would take every replica out of the balancer at once.
        self._metrics.note_state(WorkerState.READY if self._runtime.was_ready else WorkerState.STARTING)

    def note_state(self) -> None:
        """Publish the state of this worker to the others; the watching thread calls it after each poll."""
        self._metrics.note_state(self._own_state()[0])
        if not self._runtime.was_ready:
            self.not_ready_reason()  # the last worker to get ready records when all were, without waiting for a probe

    def not_ready_reason(self) -> str:
        """The reason why the reader should get no requests, as a sentence; "" if it should."""
        if self._runtime.is_draining:
            return "The reader is draining: it got a signal to stop."
        if own := self._own_state()[1]:
            return own
        others = [worker for index, worker in enumerate(self._slots) if self._runtime.is_taken_by_another(index)]
        if other := next(filter(None, map(_worker_reason, others)), ""):
            return other
        if not self._runtime.was_ready:
            started = sum(worker.pid != 0 for worker in self._slots)
            if started < self._workers:
                return f"{started} of {self._workers} workers of the reader have started."
            self._runtime.note_ready()
        return ""

    def _own_state(self) -> tuple[WorkerState, str]:
        catalog = self._catalog
        if not catalog.is_following:
            return WorkerState.UNWATCHED, _REASONS[WorkerState.UNWATCHED]
        if not catalog.warm:
            return WorkerState.STARTING, catalog.partial.find_reason() or _LOADING
        if catalog.damaged:
            return WorkerState.DAMAGED, _damage_reason(sorted(catalog.damaged))
        if not catalog.answers and not any(extension.serves_anything() for extension in self._extensions):
            return WorkerState.EMPTY, _REASONS[WorkerState.EMPTY]
        if catalog.lag.reason and not self._runtime.was_ready:
            return WorkerState.BEHIND, catalog.lag.reason
        if reason := next(filter(None, (extension.not_ready_reason() for extension in self._extensions)), ""):
            return WorkerState.EXTENSION, reason
        return WorkerState.READY, ""


def _worker_reason(worker: WorkerMetrics) -> str:
    state = WorkerState(worker.state)
    return _damage_reason(worker.damaged_pipelines()) if state == WorkerState.DAMAGED else _REASONS[state]


def _damage_reason(names: Sequence[str]) -> str:
    return f"The published version of {', '.join(names)} is damaged, and no earlier one can be served instead."
