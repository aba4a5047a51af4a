"""Queue of requests for the event loop's thread: by deadline if there is time for all, else the newest first.

After a short pause all queued requests have time enough; by deadline, none waits longer than the pause was. Under
overload that order would answer every request just too late. Then the newest is answered first, and a request that
cannot be answered by the model in time is given up while there is time for a fallback (adaptive LIFO and CoDel, as in
Maurer, "Fail at Scale", ACM Queue 2015).
"""

import asyncio
import heapq
import logging
from collections.abc import Callable
from time import perf_counter_ns

from forecache.realtime.deadline.clock import RequestClock
from forecache.realtime.deadline.deadline import CostEstimate, may_begin

logger = logging.getLogger("forecache.realtime")
SLICE_NS = 1_000_000
"""Time spent on queued requests before the loop polls for new ones."""
OVERLOAD = "overload"
_IN_ORDER_SHARE = 0.5
"""Requests are answered by deadline if all of them take no more than this share of the time that the first has left."""


class _QueuedRequest:
    __slots__ = ("run",)

    def __init__(self, run: Callable[[str], None]) -> None:
        self.run: Callable[[str], None] | None = run


class RequestQueue:
    """The waiting requests of one worker.

    Attributes:
        model_cost: Of an answer by the model.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._stack: list[_QueuedRequest] = []
        self._by_deadline: list[tuple[int, int, _QueuedRequest]] = []
        self._count, self._seen = 0, 0
        self._is_scheduled = False
        self._ended = 0
        self._turn = CostEstimate(100_000)
        self.model_cost = CostEstimate(200_000)

    def can_run_now(self, clock: RequestClock, now: int) -> bool:
        """Return True if a request may be answered at once: nobody waits, and it has most of its time left."""
        return not self._count and (now - clock.arrived) * 10 < clock.until - clock.arrived

    @property
    def waiting(self) -> int:
        return self._count

    def enqueue(self, clock: RequestClock, run: Callable[[str], None]) -> None:
        """Queue a request.

        Args:
            run: Answers it; its argument is the reason why the model must not be called, "" if it may. Raises nothing.
        """
        job = _QueuedRequest(run)
        if len(self._stack) > 2 * self._count + 64:
            self._stack = [each for each in self._stack if each.run is not None]
        self._stack.append(job)
        self._seen += 1
        heapq.heappush(self._by_deadline, (clock.until, self._seen, job))
        self._count += 1
        if not self._is_scheduled:
            self._is_scheduled = True
            self._ended = perf_counter_ns()
            self._loop.call_soon(self._work)

    def _work(self) -> None:
        now = perf_counter_ns()
        self._turn.add_sample(now - self._ended)
        end = now + SLICE_NS
        self._give_up_late()
        while self._count:
            self._finish(self._pop_earliest_deadline() if self._has_time_for_all() else self._pop_newest(), "")
            if perf_counter_ns() >= end:
                break
        if self._count:
            self._ended = perf_counter_ns()
            self._loop.call_soon(self._work)
        else:
            self._is_scheduled = False
            self._stack.clear()
            self._by_deadline.clear()

    def _has_time_for_all(self) -> bool:
        """Return True if all queued requests can be answered in the order of their deadlines, with time to spare."""
        waiting = int(self._count / _IN_ORDER_SHARE) - 1
        return may_begin(self.model_cost, perf_counter_ns(), self._by_deadline[0][0], waiting=waiting)

    def _pop_earliest_deadline(self) -> _QueuedRequest:
        """Take the queued request with the earliest deadline."""
        while True:
            job = heapq.heappop(self._by_deadline)[2]
            if job.run is not None:
                return job

    def _pop_newest(self) -> _QueuedRequest:
        while True:
            job = self._stack.pop()
            if job.run is not None:
                return job

    def _give_up_late(self) -> None:
        """Answer requests by a fallback if the model would answer them too late because of the others.

        A request that waits alone is left: it runs next, and a deadline too short for the model is not overload.
        """
        heap = self._by_deadline
        soon = SLICE_NS + self._turn.estimate
        while self._count > 1:
            until, _, job = heap[0]
            if job.run is not None:
                # It runs after all other queued requests, and after those still to come.
                waiting = self._count - 1
                if may_begin(self.model_cost, perf_counter_ns(), until, reserve=soon, waiting=waiting):
                    return
                self._finish(job, OVERLOAD)
            heapq.heappop(heap)

    def _finish(self, job: _QueuedRequest, why: str) -> None:
        run, job.run = job.run, None
        self._count -= 1
        assert run is not None
        try:
            run(why)
        except Exception:
            # The requests behind it are answered all the same.
            logger.exception("A request could not be answered.")
