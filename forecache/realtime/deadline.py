"""The deadline of a request: its clock, whether a piece of work may still begin, and the queue of those that wait.

Every step asks `may_begin`: the admission of a request, its turn in the queue, its look-ups, its model, each fallback,
and the model behind the cache. Only a call that has begun is limited by other means: by the guard of the event loop
(`forecache.realtime.answer.in_loop`), or because nobody waits for its worker process any longer.
"""

import asyncio
import heapq
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter_ns

from forecache.kit.http import problems
from forecache.kit.http.call import HttpCall
from forecache.kit.http.load_shedding import LoadShedder, stamp_age_ns
from forecache.kit.http.problems import Problem, quote_value

_WEIGHT, _LEAST_WEIGHT = 1 / 32, 1 / 256
_FORGET_NS = 250_000_000
"""After this time without a sample, the estimate of work that is refused as too slow is halved: nothing else would show
that it has become fast again. The estimate does not fall below the fastest samples."""
_GIVEN_UP_SHARE = 1 / 3
"""Share of the model's time that a request given up for others may take: a worker that has fallen behind would stay
behind if it were more."""
_MARGIN_NS, _MARGIN_SHARE = 2_000_000, 0.1
"""Time reserved for finishing the answer when a model in another process has used up its time: so many nanoseconds,
or this share of the deadline if that is less."""


class CostEstimate:
    """A running mean and mean deviation, as for the retransmission timer of TCP (Jacobson 1988).

    Attributes:
        estimate: Nanoseconds within which most such work is done.
    """

    __slots__ = ("_deviation", "_learned", "_least", "_mean", "estimate")

    def __init__(self, first_ns: float) -> None:
        self._mean, self._deviation = first_ns, first_ns / 2
        self._least, self._learned = 0.0, perf_counter_ns()
        self.estimate = int(2 * first_ns)

    def add_sample(self, nanoseconds: int) -> None:
        difference = nanoseconds - self._mean
        self._mean += difference * _WEIGHT
        self._deviation += (abs(difference) - self._deviation) * _WEIGHT
        least = self._least or nanoseconds
        self._least = min(nanoseconds, least + (nanoseconds - least) * _LEAST_WEIGHT)
        self._learned = perf_counter_ns()
        self.estimate = int(self._mean + 2 * self._deviation)

    def fits(self, left_ns: float) -> bool:
        if self.estimate > left_ns and (now := perf_counter_ns()) - self._learned > _FORGET_NS:
            self._learned = now
            self._mean, self._deviation = max(self._mean / 2, self._least), self._deviation / 2
            self.estimate = int(self._mean + 2 * self._deviation)
        return self.estimate <= left_ns


def may_begin(
    cost: CostEstimate | float, now: float, until: float, *, reserve: float = 0, waiting: int = 0, most: float = 0
) -> bool:
    """Decide if work may begin: it is expected to end in time. All times are of one clock, in one unit.

    Args:
        cost: The estimate of the work (in nanoseconds), or the expected time.
        reserve: Time that later steps need.
        waiting: Number of requests behind this one; they usually have as little time, and get as much of it.
        most: Longest time that the work may take, however late the deadline is; 0: no such limit.
    """
    left = until - now - reserve
    if waiting:
        left /= waiting + 1
    if most and left > most:
        left = most
    return cost.fits(left) if isinstance(cost, CostEstimate) else cost <= left


def choose_fallback(
    costs: Sequence[CostEstimate], model_cost: CostEstimate, now_ns: int, until_ns: int, waiting: int
) -> int:
    """Return the index of the best fallback that may begin; the last one always may.

    While others wait, it may take much less than the model: else giving a request up for them would gain nothing.
    """
    most, last = model_cost.estimate * _GIVEN_UP_SHARE if waiting else 0, len(costs) - 1
    for place in range(last):
        if may_begin(costs[place], now_ns, until_ns, waiting=waiting, most=most):
            return place
    return last


def time_for_model(low_cost: CostEstimate, left_ns: int) -> int:
    """Return the nanoseconds that the model may take of those left, so that time for the last fallback remains."""
    return left_ns - min(low_cost.estimate, max(0, left_ns // 4))


def time_to_finish(deadline_ms: float) -> int:
    """Return the nanoseconds that a model in another process must leave to finish the answer."""
    return min(_MARGIN_NS, int(deadline_ms * 1e6 * _MARGIN_SHARE))


_START, _DEADLINE, _GRPC, _ENVOY = (
    "x-request-start", "x-deadline-ms", "grpc-timeout", "x-envoy-expected-rq-timeout-ms",
)  # fmt: skip
_NUMBER = re.compile(r"\d{1,20}(\.\d{1,9})?")
_GRPC_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])")
_GRPC_MS = {"H": 3_600_000.0, "M": 60_000.0, "S": 1000.0, "m": 1.0, "u": 1e-3, "n": 1e-6}


@dataclass(slots=True)
class RequestClock:
    """The times of one request, in nanoseconds of `time.perf_counter_ns`."""

    arrived: int  # arrival at the balancer, or at this process as estimated
    until: int  # time at which the answer has to leave the handler
    deadline_ms: float  # granted time from arrival until the answer is sent

    def is_late(self, now: int) -> bool:
        return now - self.arrived > self.deadline_ms * 1e6


def clock_of(call: HttpCall, most_ms: float) -> RequestClock:
    """Read the arrival and the deadline of a request from its headers.

    Raises:
        Problem: 400 for a header that is not a time, 504 if the client has no time left.
    """
    get = call.headers.get
    stamp = get(_START)
    wait = call.waited if stamp is None else stamp_age_ns(stamp.removeprefix("t="), call.waited)
    asked = most_ms
    if (text := get(_DEADLINE)) is not None:
        asked = min(asked, _milliseconds(_DEADLINE, text))
    if (text := get(_GRPC)) is not None:
        asked = min(asked, _grpc_milliseconds(text))
    if (text := get(_ENVOY)) is not None:
        asked = min(asked, _milliseconds(_ENVOY, text))
    _check_left(asked)
    arrived = call.arrived - wait
    return RequestClock(arrived, arrived + int(asked * 1e6), asked)


def shorten_deadline(clock: RequestClock, asked_ms: float) -> RequestClock:
    """Apply the deadline in a request's body; the shorter one counts.

    Raises:
        Problem: 504 if the client has no time left.
    """
    if asked_ms >= clock.deadline_ms:
        return clock
    _check_left(asked_ms)
    return RequestClock(clock.arrived, clock.arrived + int(asked_ms * 1e6), asked_ms)


def _check_left(asked_ms: float) -> None:
    if asked_ms <= 0.0:
        raise Problem(
            problems.DEADLINE_PASSED,
            f"The request has {asked_ms:g} ms left to be answered in, so nothing was computed; send a longer time.",
            members={"deadline_ms": asked_ms},
        )


def _milliseconds(header: str, text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise _malformed_header_error(header, text, "a number of milliseconds such as 40")
    return float(text)


def _grpc_milliseconds(text: str) -> float:
    found = _GRPC_TIMEOUT.fullmatch(text)
    if found is None:
        raise _malformed_header_error(_GRPC, text, "digits and a unit of H, M, S, m, u, n, such as 40m")
    return int(found[1]) * _GRPC_MS[found[2]]


def _malformed_header_error(header: str, text: str, takes: str) -> Problem:
    return Problem(problems.BAD_REQUEST, f"The header {header} is {quote_value(text)}; it takes {takes}.")


logger = logging.getLogger("forecache.realtime")
SLICE_NS = 1_000_000
"""Time spent on queued requests before the loop polls for new ones."""
OVERLOAD = "overload"
_IN_ORDER_SHARE = 0.5
"""Requests are answered by deadline if all of them take no more than this share of the time that the first has left."""
_QUEUED_SHARE, _FEW = 0.25, 16
"""A queue is full if what waits takes more than this share of a deadline, and it is not a few requests."""
_WORK_SHARE, _LONGEST_SLICE_NS = 1.5, 3 * SLICE_NS
"""A slice is so many times the time that was spent on reading new requests before, so that these never take it all."""
_BESIDE_SHARE, _MOST_BESIDE_NS, _DEAREST_NS = 0.15, 10_000_000, 1_000_000
"""Share of the time that goes to requests that the full queue does not take: what their refusals leave of it is for
answers by fallbacks. So much is saved up for a short peak, and an answer that took longer was held up by the machine.
"""


class _QueuedRequest:
    __slots__ = ("run",)

    def __init__(self, run: Callable[[str], None]) -> None:
        self.run: Callable[[str], None] | None = run


class RequestQueue:
    def __init__(self, loop: asyncio.AbstractEventLoop, shedder: LoadShedder | None = None) -> None:
        self._loop = loop
        self.shedder = shedder or LoadShedder()
        self._beside_ns, self._granted_at = float(_MOST_BESIDE_NS), perf_counter_ns()
        self._slice_ns, self._num_late = SLICE_NS, 0
        self._stack: list[_QueuedRequest] = []
        self._by_deadline: list[tuple[int, int, _QueuedRequest]] = []
        self._count, self._seen = 0, 0
        self._is_scheduled = False
        self._ended = 0
        self._turn = CostEstimate(100_000)
        self.model_cost = CostEstimate(200_000)

    def can_run_now(self, clock: RequestClock, now: int) -> bool:
        """Return True if a request may be answered at once: nobody waits, and it has most of its time left."""
        self._num_late = 0
        return not self._count and (now - clock.arrived) * 10 < clock.until - clock.arrived

    @property
    def waiting(self) -> int:
        return self._count

    def is_full(self, deadline_ns: float) -> bool:
        return self._count >= _FEW and self._count * self.model_cost.estimate > deadline_ns * _QUEUED_SHARE

    def may_fall_back(self, now: int) -> bool:
        """Return True if a request that the queue does not take gets an answer by a fallback; else it is refused."""
        granted = self._beside_ns + (now - self._granted_at) * _BESIDE_SHARE
        self._beside_ns, self._granted_at = max(-_MOST_BESIDE_NS, min(granted, _MOST_BESIDE_NS)), now
        return self._beside_ns > 0

    def spend_beside(self, nanoseconds: int) -> None:
        self._beside_ns -= min(nanoseconds, _DEAREST_NS)

    def is_overload(self, now: int, clock: RequestClock) -> bool:
        """Return True if a request without time for the model is one of many.

        Many that come late one after the other are overload too: they waited in sockets, or in their clients.
        """
        self._num_late += now > clock.until
        return self._num_late > _FEW or now < self.shedder.active_until

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
        between_ns = now - self._ended
        self._turn.add_sample(between_ns)
        self._slice_ns = min(max(SLICE_NS, int(between_ns * _WORK_SHARE)), _LONGEST_SLICE_NS)
        end = now + self._slice_ns
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
        soon = self._slice_ns + self._turn.estimate
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
        began = perf_counter_ns()
        try:
            run(why)
        except Exception:
            # The requests behind it are answered all the same.
            logger.exception("A request could not be answered.")
        if why:
            self.spend_beside(perf_counter_ns() - began)
