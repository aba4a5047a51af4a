"""The model processes of a release on the event loop: their calls, and the supervisor that replaces those that fail."""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from forecache.base.errors import UnavailableError
from forecache.realtime.metrics import PathCounters
from forecache.realtime.request.request_answer import LookupResult, ModelCallError, ParsedRequest, TooLate
from forecache.realtime.workers.model_process import ModelProcess, ProcessTemplate
from forecache.realtime.workers.slot_memory import (
    BEGUN,
    BEGUN_NS,
    DONE_NS,
    FAILED,
    LONGEST_NS,
    REQUESTS,
    SCORED,
    STATUS,
    WorkerConfig,
)

logger = logging.getLogger("forecache.realtime")
HANG_S, HANG_CALLS = 0.25, 10.0
"""A process without progress for this time and for this many usual call times is killed."""
LEAST_START_S = 5.0
"""Time for a replacement to become warm, or `HANG_CALLS` times that of the last one; longer after failures.

It excludes the start of the `ProcessTemplate`, which has its own limit.
"""
RETRY_S = 0.3
"""Pause after a process that did not become warm; after it, one process is tried at a time."""
_DRAIN_S = 2.0
_JOIN_S = 5.0
_SLOT = [bytes([number]) for number in range(256)]
_RECEIVE_BYTES = 4096


class ModelCall:
    """A request sent to a model process, and the future of its scores."""

    __slots__ = ("found", "future", "request", "sent", "slot", "until", "worker")

    def __init__(
        self, request: ParsedRequest, found: LookupResult, until: float, future: "asyncio.Future[np.ndarray]"
    ) -> None:
        self.request, self.found, self.until, self.future = request, found, until, future
        self.worker: Worker | None = None
        self.slot = 0
        self.sent = 0.0

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Worker:
    """The event loop's view of a warm model process: its running calls, and the time of its last progress."""

    def __init__(self, process: ModelProcess) -> None:
        self.process, self.memory, self.channel = process, process.memory, process.channel
        self.descriptor = process.channel.fileno()
        self.free = list(range(process.memory.layout.slots))
        self.calls: dict[int, ModelCall] = {}
        self.overgrown = False
        """True if it takes too much memory and its replacement is starting."""
        self._since = 0.0
        self._sent = 0

    def silent_s(self, now: float) -> float:
        """Return the seconds without progress; 0 if the process is idle.

        Progress is read from shared memory, because answers may lie unread while the loop is busy.
        """
        if not self.calls:
            return 0.0
        head = self.memory.head
        begun_ns = head[BEGUN_NS]
        if not begun_ns and head[REQUESTS] == self._sent:
            return 0.0
        return now - max(self._since, (begun_ns or head[DONE_NS]) / 1e9)

    def excuse_silence(self, now: float, seconds: float) -> None:
        """Leave seconds out of the time without progress: this machine stood still for so long."""
        self._since = max(self._since, now - max(0.0, self.silent_s(now) - seconds))

    def send(self, call: ModelCall, now: float) -> bool:
        """Send a request; return False if the process has ended."""
        slot = self.free.pop()
        try:
            self.memory.write_request(slot, call.request, call.found, int(call.until * 1e9))
        except (ValueError, KeyError) as error:
            self.free.append(slot)
            call.fail(ModelCallError(str(error)))
            return True
        if not self.calls:
            self._since = now
        call.worker, call.slot, call.sent = self, slot, now
        self.calls[slot] = call
        self._sent += 1
        try:
            self.channel.send(_SLOT[slot])
        except OSError:
            return False
        return True

    def receive(self) -> bytes | None:
        """Complete the answered calls and return their slots' numbers; None if the process has ended."""
        slots = b""
        try:
            slots = self.channel.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return slots
        except OSError:
            pass
        if not slots or not self.calls.keys() >= set(slots):
            return None
        for slot in slots:
            call = self.calls.pop(slot)
            call.worker = None
            if not call.future.done():
                self._complete_call(call)
            self.free.append(slot)
        return slots

    def has_begun(self, call: ModelCall) -> bool:
        """Return True if the process has begun an unanswered call."""
        return self.memory.cells[call.slot][STATUS] == BEGUN

    def _complete_call(self, call: ModelCall) -> None:
        memory, slot = self.memory, call.slot
        status = memory.cells[slot][STATUS]
        if status == SCORED:
            # A broken process may have written anything.
            with suppress(ValueError):
                scores = memory.read_scores(slot)
                if len(scores) == call.request.length:
                    call.found.features = memory.read_features(slot)
                    call.future.set_result(scores)
                    return
            call.fail(ModelCallError("The model process wrote scores that cannot be read."))
        elif status == FAILED:
            call.fail(ModelCallError(memory.read_fault(slot)))
        else:
            call.fail(TooLate())


@dataclass(frozen=True)
class SupervisorConfig:
    """Configuration of the supervisor.

    Attributes:
        grows_bytes: Memory that a process may take beyond that at the end of warm-up; above it, a replacement is
            started. At twice that growth it is drained without waiting for the replacement.
    """

    size: int  # processes to keep warm
    start_s: float = 60.0  # longest time until a process is warm
    grows_bytes: int = 1 << 30


class WorkerSupervisor:
    """Supervises the processes of one pool. All methods but `open` and `close` are called on the event loop.

    Args:
        on_readable: Called on the loop when a worker's channel has something to read.
        on_ready: Called on the loop with one more worker.
        on_lost: Called on the loop with a worker to be replaced, and the cause; it calls `replace_worker`.

    Attributes:
        workers: Those that may get requests, the longest-running first.
    """

    def __init__(
        self,
        plan: SupervisorConfig,
        orders: WorkerConfig,
        loop: asyncio.AbstractEventLoop,
        *,
        counters: PathCounters,
        on_readable: Callable[[Worker], None],
        on_ready: Callable[[Worker], None],
        on_lost: Callable[[Worker, str], None],
    ) -> None:
        self._plan, self._orders, self._loop, self._counters = plan, orders, loop, counters
        self._on_readable, self._on_ready, self._on_lost = on_readable, on_ready, on_lost
        self._template = ProcessTemplate(orders, counters, start_s=plan.start_s)
        self.workers: list[Worker] = []
        self._draining: list[Worker] = []
        self._processes: set[ModelProcess] = set()
        self._starting = 0
        self._retrying = False
        self._start_s = self._call_s = plan.start_s
        self._fault = ""
        self._closing = False
        self._loop_thread = 0
        self._opened, self._drained = threading.Event(), threading.Event()

    def open(self) -> None:
        """Start the processes and wait until the first is warm, in any thread; raises `UnavailableError`."""
        self._template.start()
        self._start_missing()
        if not self._opened.wait(self._plan.start_s) or self._fault:
            self.close()
            raise UnavailableError(self._fault or f"No model process was warm within {self._plan.start_s:g} s.")

    def replace_worker(self, worker: Worker, cause: str) -> None:
        """Kill a worker's process and start another."""
        if worker in self.workers:
            self.workers.remove(worker)
            self._counters.count_replacement(cause)
            self._counters.add("processes", -1)
            logger.error("Model process %d is replaced: %s.", worker.process.pid, cause)
            self._start_missing()
        self._end(worker, gently=False)

    def end_if_drained(self, worker: Worker) -> None:
        """End a worker that is being drained once it has answered all its calls."""
        if not worker.calls and worker in self._draining:
            self._end(worker, gently=True)

    def close(self) -> None:
        """End all processes, in any thread; running calls are awaited unless this is the loop's thread."""
        self._closing = True
        with suppress(RuntimeError):  # the loop has ended
            if self._loop.is_running() and threading.get_ident() != self._loop_thread:
                self._loop.call_soon_threadsafe(self._drain_all)
                self._drained.wait(_DRAIN_S)
                ended = threading.Event()
                self._loop.call_soon_threadsafe(self._end_all, ended)
                ended.wait(_DRAIN_S)
            else:
                self._drain_all()
                self._end_all(threading.Event())
        for process in list(self._processes):
            process.end(gently=False)
        for process in list(self._processes):
            process.join(_JOIN_S)
        self._template.close()

    def _drain_all(self) -> None:
        for worker in list(self.workers):
            self._drain(worker)
        if not self._draining:
            self._drained.set()

    def _end_all(self, ended: threading.Event) -> None:
        for worker in list(self._draining):
            self._end(worker, gently=False)
        ended.set()

    def _drain(self, worker: Worker) -> None:
        """Send a worker no more requests, and end it once it has answered those that it has."""
        self.workers.remove(worker)
        self._counters.add("processes", -1)
        self._draining.append(worker)
        self.end_if_drained(worker)

    def _end(self, worker: Worker, *, gently: bool) -> None:
        self._loop.remove_reader(worker.descriptor)
        if worker in self._draining:
            self._draining.remove(worker)
        worker.process.end(gently=gently)
        if self._closing and not self._draining:
            self._drained.set()

    def _start_missing(self) -> None:
        fit = sum(not worker.overgrown for worker in self.workers)
        while not (self._closing or self._retrying) and fit + self._starting < self._plan.size:
            self._start()

    def _start(self) -> None:
        self._starting += 1
        self._counters.add("started")
        process = ModelProcess(
            self._template, self._orders.layout,
            start_s=self._start_s, call_s=self._call_s, grows_bytes=self._plan.grows_bytes,
            on_event=self._schedule, on_end=self._processes.discard,
        )  # fmt: skip
        self._processes.add(process)
        process.start()

    def _retry(self) -> None:
        if not self._closing:
            self._start()

    def _schedule(self, process: ModelProcess, event: str, fault: str) -> None:
        """Have an event of a process handled on the loop; called in the thread of the process."""
        if not self._opened.is_set():
            self._fault = fault
            self._opened.set()
        handle = self._add_worker if event == "ready" else self._handle_unfit
        try:
            self._loop.call_soon_threadsafe(handle, process, event, fault)
        except RuntimeError:  # the loop has ended
            process.end(gently=False)

    def _add_worker(self, process: ModelProcess, *_: str) -> None:
        self._loop_thread = threading.get_ident()
        self._starting -= 1
        self._retrying = False
        self._fault = ""
        if self._closing:
            process.end(gently=False)
            return
        # The first process may compile code that others find compiled, so later ones get a shorter limit.
        self._call_s = max(HANG_S, HANG_CALLS * process.memory.head[LONGEST_NS] / 1e9)
        self._start_s = min(self._plan.start_s, max(LEAST_START_S, HANG_CALLS * process.ready_s))
        worker = Worker(process)
        self.workers.append(worker)
        self._loop.add_reader(worker.descriptor, self._on_readable, worker)
        for other in list(self.workers):
            if other.overgrown:
                self._drain(other)
        self._start_missing()
        self._counters.add("processes")
        self._on_ready(worker)

    def _handle_unfit(self, process: ModelProcess, cause: str, fault: str) -> None:
        if fault != self._fault:
            logger.error("%s", fault)
        if cause == "start":
            self._fault = fault
            self._starting -= 1
            self._retrying = True
            self._start_s = min(self._plan.start_s, 2 * self._start_s)
            self._counters.count_replacement(cause)
            if not self._starting and not self._closing:
                self._loop.call_later(RETRY_S, self._retry)
            return
        for worker in [worker for worker in self.workers if worker.process is process]:
            if cause == "stopped":
                self._on_lost(worker, cause)
            elif worker.overgrown:
                self._drain(worker)
            else:
                worker.overgrown = True
                self._counters.count_replacement(cause)
                self._start_missing()
