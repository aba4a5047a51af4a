"""The path to a model in worker processes: a circuit breaker, and the pool that distributes requests on the event loop.

The loop never waits for a process: it writes a request into a slot, sends the slot's number, and goes on. A process
that makes no progress gets no further requests; the spare process gets them. If it still makes none, it is killed and
replaced. While the breaker is open, the model gets only a probe now and then, until one succeeds.
"""

import asyncio
import logging
import sys
import time
from collections import deque

import numpy as np

from forecache.base.errors import UnavailableError
from forecache.base.settings import Settings
from forecache.declare.realtime.request_rows import DTYPES
from forecache.kit.process.periodic import RareMessage
from forecache.kit.process.wakes import HUNG_MODELS
from forecache.realtime.metrics import PathCounters
from forecache.realtime.release.format import BINS_FILE, Release
from forecache.realtime.release.load import OpenRelease
from forecache.realtime.request.request_answer import (
    LookupResult,
    ModelCallError,
    ParsedRequest,
    RefusedCallError,
    StageTimes,
    TooLate,
    WorkerLost,
)
from forecache.realtime.workers.release_scorer import LOAD
from forecache.realtime.workers.slot_memory import BATCH, CANCELLED, SHARE_NS, TEXT, WARM_NS, SlotLayout, WorkerConfig
from forecache.realtime.workers.worker_supervisor import (
    HANG_CALLS,
    HANG_S,
    ModelCall,
    SupervisorConfig,
    Worker,
    WorkerSupervisor,
)

QUEUE_S = 0.003
"""Work that is queued in a process, so that it need not wait for the loop, and can batch."""
STALL_S, STALL_CALLS = 0.020, 4.0
"""A process without progress for this time and for this many usual call times gets no more requests."""
_MARGIN_S = 0.001  # timers of the event loop are exact to a millisecond
_HANDOVER_S = 0.0002
_FORGET_S = 0.1
_FIRST_GUESS_S, _LEAST_S = 0.005, 0.00002
_MEAN_WEIGHT, _FASTER_WEIGHT = 0.05, 0.5


class StalledWorkerError(TooLate):
    """The deadline passed while the process made no progress."""


class ModelProcessPool:
    """The processes of one release; one of the `size` of its plan is the spare, and gets no requests."""

    def __init__(
        self, plan: SupervisorConfig, orders: WorkerConfig, *, loop: asyncio.AbstractEventLoop, counters: PathCounters
    ) -> None:
        self._loop, self._counters = loop, counters
        self._size = plan.size - 1
        self._staff = WorkerSupervisor(
            plan, orders, loop, counters=counters,
            on_readable=self._read, on_ready=self._add_worker, on_lost=self._replace_worker,
        )  # fmt: skip
        self._pending: deque[ModelCall] = deque()
        self._call_s = self._share_s = _FIRST_GUESS_S
        self._answered = 0.0
        self._start_s = HANG_S
        self._sweeper: asyncio.TimerHandle | None = None
        self._swept = time.monotonic()

    def open(self) -> None:
        """Start the processes and wait until one is warm, in any thread; raises `UnavailableError`."""
        self._staff.open()
        self._swept = time.monotonic()
        self._loop.call_soon_threadsafe(self._replace_hung_workers)

    @property
    def workers(self) -> list[Worker]:
        return self._staff.workers

    async def score(self, request: ParsedRequest, found: LookupResult, until: float) -> np.ndarray:
        """Score a request; see `ModelPath.score`. Raises `StalledWorkerError` if the process made no progress."""
        now = time.monotonic()
        left = until - _MARGIN_S - now
        if left <= 0:
            raise TooLate
        call = ModelCall(request, found, until, self._loop.create_future())
        self._hand_over(call, now)
        timer = self._loop.call_later(left, self._expire, call)
        try:
            return await call.future
        finally:
            timer.cancel()
            if call.worker is not None:
                call.worker.memory.cells[call.slot][CANCELLED] = 1

    def has_responsive_worker(self, now: float) -> bool:
        return bool(self._responsive_workers(now))

    @property
    def renewal_s(self) -> float:
        """Mean time between new warm processes if every call hangs: probes are spread evenly over them."""
        return (HANG_S + self._start_s) / (self._size + 1)

    def expected_s(self) -> float:
        now = time.monotonic()
        awake = self._responsive_workers(now)
        if not awake:
            return float("inf")
        ahead = sum(len(worker.calls) for worker in awake) + len(self._pending)
        # The estimate decays while idle: a model may have become fast again, which only a request shows.
        share_s = self._share_s if ahead else self._share_s * 0.5 ** ((now - self._answered) / _FORGET_S)
        return _HANDOVER_S + (ahead + 1) * share_s / len(awake)

    def close(self) -> None:
        """End the processes, in any thread; running calls are awaited unless this is the loop's thread."""
        self._staff.close()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def _responsive_workers(self, now: float) -> list[Worker]:
        """Return the processes that get requests: the first `size` that make progress."""
        stall_s = max(STALL_S, STALL_CALLS * self._call_s)
        return [worker for worker in self._staff.workers if worker.silent_s(now) <= stall_s][: self._size]

    def _hand_over(self, call: ModelCall, now: float) -> None:
        """Send a call to the process with the fewest calls, or queue it."""
        awake = self._responsive_workers(now)
        best, fewest = None, max(2, int(QUEUE_S / self._share_s))
        for worker in awake:
            if len(worker.calls) < fewest and worker.free:
                best, fewest = worker, len(worker.calls)
        if best is not None:
            if not best.send(call, now):
                self._loop.call_soon(self._replace_worker, best, "crashed")
        elif awake:
            self._pending.append(call)
        else:
            call.fail(RefusedCallError("No model process makes progress."))

    def _read(self, worker: Worker) -> None:
        slots = worker.receive()
        if slots is None:
            self._replace_worker(worker, "crashed")
        elif slots:
            self._measure(worker, slots)
            self._hand_over_pending()
            self._staff.end_if_drained(worker)

    def _measure(self, worker: Worker, slots: bytes) -> None:
        self._answered = time.monotonic()
        for slot in slots:
            cells = worker.memory.cells[slot]
            batch = cells[BATCH]
            if batch:
                share_s = max(_LEAST_S, cells[SHARE_NS] / 1e9)
                self._share_s = update_mean(self._share_s, share_s)
                self._call_s = update_mean(self._call_s, share_s * batch)
                self._counters.count_batch(batch)

    def _add_worker(self, worker: Worker) -> None:
        self._start_s = worker.process.ready_s
        if not self._answered:
            self._call_s = self._share_s = max(_LEAST_S, worker.memory.head[WARM_NS] / 1e9)
        self._hand_over_pending()

    def _hand_over_pending(self) -> None:
        """Send queued requests, the newest first, as it is the likeliest to be answered in time."""
        now = time.monotonic()
        for _ in range(len(self._pending)):
            call = self._pending.pop()
            if not call.future.done():
                waiting = len(self._pending)
                self._hand_over(call, now)
                if len(self._pending) > waiting:
                    return

    def _expire(self, call: ModelCall) -> None:
        if call.future.done():
            return
        self._counters.add("abandoned")
        now = time.monotonic()
        silent_s = call.worker.silent_s(now) if call.worker is not None else 0.0
        # Under load a call may expire because of others in the queue, which is no fault of the process.
        stalled = silent_s > 2 * self._call_s and silent_s > 0.5 * (now - call.sent)
        call.fail(StalledWorkerError() if stalled else TooLate())
        while self._pending and self._pending[0].future.done():
            self._pending.popleft()

    def _replace_worker(self, worker: Worker, cause: str) -> None:
        """Replace a process; calls that it had not begun are sent to another."""
        self._staff.replace_worker(worker, cause)
        now = time.monotonic()
        calls = list(worker.calls.values())
        worker.calls.clear()
        for call in calls:
            call.worker = None
            if worker.has_begun(call):
                call.fail(WorkerLost(f"The model process was replaced: {cause}."))
            elif not call.future.done():
                self._counters.add("requeued")
                self._hand_over(call, now)

    def _replace_hung_workers(self) -> None:
        now = time.monotonic()
        # If this look comes late, the machine stood still, or the loop did, and so may have the processes.
        late_s, self._swept = now - self._swept - 2 * HUNG_MODELS.every_s, now
        hang_s = max(HANG_S, HANG_CALLS * self._call_s)
        for worker in list(self._staff.workers):
            if late_s > 0:
                worker.excuse_silence(now, late_s)
            if worker.silent_s(now) > hang_s:
                self._replace_worker(worker, "hung")
        self._sweeper = self._loop.call_later(HUNG_MODELS.every_s, self._replace_hung_workers)


def update_mean(mean: float, value: float) -> float:
    """Update a running mean; it falls fast after slow calls, because few requests are tried while it is high."""
    return mean + (_FASTER_WEIGHT if value < mean / 2 else _MEAN_WEIGHT) * (value - mean)


PROBE_S = 0.25
"""While it is open, a request is let through this often."""
OPEN_SHARE, _WEIGHT = 0.4, 0.1
"""It opens when this share of recent outcomes are failures: five in a row, or half of many."""


class CircuitBreaker:
    """Times are `time.monotonic()`."""

    def __init__(self) -> None:
        self.is_open = False
        self._share = 0.0
        self._probe_at = 0.0

    def allow_request(self, now: float) -> bool:
        """Return True if a request may be sent to the model. While the breaker is open, that request is the probe."""
        if not self.is_open:
            return True
        if now < self._probe_at:
            return False
        self._probe_at = now + PROBE_S
        return True

    def would_allow(self, now: float) -> bool:
        """Return the same as `allow_request`, without using up the probe."""
        return not self.is_open or now >= self._probe_at

    def record_success(self) -> None:
        if self.is_open:
            self.is_open, self._share = False, 0.0
        else:
            self._share -= _WEIGHT * self._share

    def record_failure(self, now: float, *, pause_s: float = PROBE_S) -> None:
        """Note a failure; `pause_s` is the least time until the next probe."""
        self._share += _WEIGHT * (1 - self._share)
        if not self.is_open and self._share > OPEN_SHARE:
            self.is_open = True
        if self.is_open:
            self._probe_at = max(self._probe_at, now + pause_s)


logger = logging.getLogger("forecache.realtime")
_FAULTS = (WorkerLost, StalledWorkerError)
_SLOTS = 64
_BATCH_SHARE, _LONGEST_BATCH_S = 0.1, 0.005


def open_worker_path(
    loaded: OpenRelease, *, settings: Settings, loop: asyncio.AbstractEventLoop, counters: PathCounters
) -> "WorkerPath":
    """Start the worker processes of a release and wait until one is warm; not on the event loop.

    Raises:
        UnavailableError: No process becomes warm, or the system is not Linux.
    """
    if sys.platform != "linux":
        raise UnavailableError(
            "Models in processes of their own need Linux.", remedy='Declare the model with runs="loop".'
        )
    release = loaded.release
    layout = slot_layout_of(release, slots=_SLOTS, body_bytes=settings.reader_max_body_bytes)
    batch_s = min(_LONGEST_BATCH_S, _BATCH_SHARE * release.deadline_ms / 1e3)
    orders = WorkerConfig(LOAD, str(loaded.place), batch_s, layout)
    plan = SupervisorConfig(settings.reader_model_processes + 1, grows_bytes=settings.reader_model_growth_bytes)
    pool = ModelProcessPool(plan, orders, loop=loop, counters=counters)
    pool.open()
    return WorkerPath(pool, counters, name=release.name)


class WorkerPath:
    """A `ModelPath` over a pool of model processes."""

    in_loop = False

    def __init__(self, pool: ModelProcessPool, counters: PathCounters, *, name: str) -> None:
        self._name = name
        self._failures = RareMessage()
        self.pool, self.counters = pool, counters
        self.breaker = CircuitBreaker()
        self.times = StageTimes()

    def score_now(self, request: ParsedRequest, found: LookupResult, left_ns: int) -> np.ndarray:
        raise RefusedCallError("The model runs in processes of its own.")

    async def score(self, request: ParsedRequest, found: LookupResult, until: float) -> np.ndarray:
        breaker, counters = self.breaker, self.counters
        now = time.monotonic()
        # A probe is useless while no process can take it.
        if breaker.is_open and not (self.pool.has_responsive_worker(now) and breaker.allow_request(now)):
            counters.add("breaker_refused")
            raise RefusedCallError("The circuit breaker is open.")
        try:
            scores = await self.pool.score(request, found, until)
        except ModelCallError as error:
            # Not counted by the breaker: one client's bad input must not block the model for all others.
            if self._failures.is_due():
                logger.error("The model of %s failed: %s", self._name, error)
            raise
        except _FAULTS:
            was_open = breaker.is_open
            breaker.record_failure(time.monotonic(), pause_s=max(PROBE_S, self.pool.renewal_s))
            if breaker.is_open and not was_open:
                counters.add("breaker_open")
                counters.add("breaker_opened")
            raise
        if breaker.is_open:
            counters.add("breaker_open", -1)
        breaker.record_success()
        return scores

    def expected_s(self) -> float:
        if not self.breaker.would_allow(time.monotonic()):
            return float("inf")
        return self.pool.expected_s()

    def close(self) -> None:
        self.pool.close()
        if self.breaker.is_open:
            self.counters.add("breaker_open", -1)


def slot_layout_of(release: Release, *, slots: int, body_bytes: int) -> SlotLayout:
    """Return the layout of slots for requests to a release.

    Args:
        body_bytes: Size of the largest request body; its texts are no longer, except for defaults of omitted fields.
    """
    most = release.candidates.most if release.candidates is not None else 1
    defaults = [field.default for field in release.all_fields if isinstance(field.default, str)]
    return SlotLayout(
        slots,
        body_bytes + most * sum(len(default.encode()) for default in defaults),
        most,
        {field.name: TEXT if field.type == "string" else DTYPES[field.type].str for field in release.all_fields},
        {each.called: len(each.columns) for each in release.lookups},
        len(release.features) if release.log is not None or BINS_FILE in release.files else 0,
    )
