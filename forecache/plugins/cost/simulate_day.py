"""A day of requests against replicas that a policy starts and stops, second by second."""

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from forecache.plugins.cost.autoscalers import FleetSnapshot, ScalingPolicy
from forecache.plugins.cost.demand import Demand

_LARGEST_EXPONENT = 60.0


@dataclass(frozen=True)
class QueueState:
    """A queue in its steady state."""

    late: float  # share of requests that would wait longer than their patience
    waiting: float  # mean number of waiting requests


def queue_with_fallback(load: float, patience: float) -> QueueState:
    """A queue that late requests do not join; it is stable under any load.

    Args:
        load: Requests that arrive in the service time of one: in Erlang.
        patience: In multiples of the service time.
    """
    if load <= 0:
        return QueueState(0.0, 0.0)
    if patience < 0:
        return QueueState(1.0, 0.0)
    slack = 1 - load
    if -slack * patience > _LARGEST_EXPONENT:  # the queue is as long as the patience permits
        return QueueState(1 - 1 / load, patience)
    # Density of the wait relative to the chance that none is needed: `load * exp(-slack * wait)` up to the patience,
    # and falling with the worker busy beyond it, where nobody joins.
    end = math.exp(-slack * patience)
    if abs(slack) < 1e-9:
        joined, moment = patience, patience**2 / 2
    else:
        joined, moment = (1 - end) / slack, (1 - end * (1 + slack * patience)) / slack**2
    whole = 1 + load * (joined + end)
    return QueueState(load * end / whole, load**2 * moment / whole)


def queue_without_fallback(load: float, patience: float) -> QueueState:
    """The M/M/1 queue, whose requests all wait; under a load of 1 or more it grows without bound."""
    if load <= 0:
        return QueueState(0.0, 0.0)
    if load >= 1:
        return QueueState(1.0, math.inf)
    slack = 1 - load
    return QueueState(load * math.exp(-slack * patience) if patience >= 0 else 1.0, load**2 / slack)


_RETRY_S = tuple(min(0.1 * 2**attempt, 1.0) for attempt in range(25))
"""Pauses of a router between tries of stopped replicas: Ray Serve's, from 0.1 s doubled to 1 s, 25 times."""


@dataclass(frozen=True)
class Replica:
    """The model of a replica."""

    service_s: float  # time of a worker for a request; its inverse is a worker's requests per second
    workers: int = 1  # workers of a replica; each has a queue of its own, as the kernel spreads connections over them
    deadline_s: float = 0.05  # time from a request's arrival in which the model has to answer
    start_s: float = 30.0  # time from the request for a replica until it takes requests: scheduling, image, pull, start
    # a request that would be late is answered by a fallback at once; else it waits, up to `give_up_s`
    fallbacks: bool = True
    give_up_s: float = 60.0
    gone_s: int = 0  # time for which a stopped replica still gets requests, which it does not answer; 0 if it drains

    @property
    def patience(self) -> float:
        """Longest wait of a request for a worker, in multiples of `service_s`."""
        return self.deadline_s / self.service_s - 1


@dataclass(frozen=True)
class SimulatedDay:
    """The result of a simulated day; arrays have one value a second."""

    policy: str
    requests: np.ndarray
    replicas: np.ndarray  # ready replicas
    paid: np.ndarray  # replicas that run, those that are starting included
    late: np.ndarray  # requests that the model did not answer in time, but a fallback, or late
    worst_s: np.ndarray  # time in which at least 999 of 1,000 requests of that second are answered

    @property
    def replica_hours(self) -> float:
        return float(self.paid.sum()) / 3600

    @property
    def late_share(self) -> float:
        return float(self.late.sum() / max(1e-9, self.requests.sum()))

    @property
    def num_reversals(self) -> int:
        """Number of times that the number of ready replicas changed from rising to falling or back."""
        steps = np.diff(self.replicas)
        signs = np.sign(steps[steps != 0])
        return int((signs[1:] != signs[:-1]).sum())


class _Fleet:
    """Replicas that are starting, ready, or stopped and still get requests."""

    def __init__(self, replica: Replica, ready: int) -> None:
        self._replica = replica
        self.ready = ready
        self._starting: deque[list[float]] = deque()
        self._gone: deque[tuple[int, int]] = deque()

    @property
    def num_starting(self) -> int:
        return int(sum(count for _, count in self._starting))

    @property
    def num_gone(self) -> int:
        return sum(count for _, count in self._gone)

    def advance(self, now: int) -> None:
        while self._starting and self._starting[0][0] <= now:
            self.ready += int(self._starting.popleft()[1])
        while self._gone and self._gone[0][0] <= now:
            self._gone.popleft()

    def resize(self, wanted: int, now: int) -> None:
        missing = wanted - self.ready - self.num_starting
        if missing > 0:
            self._starting.append([now + self._replica.start_s, missing])
        while missing < 0 and self._starting:  # those that have not started yet go first
            count = min(-missing, int(self._starting[-1][1]))
            self._starting[-1][1] -= count
            missing += count
            if not self._starting[-1][1]:
                self._starting.pop()
        if missing < 0:
            self.ready += missing
            if self._replica.gone_s:
                self._gone.append((now + self._replica.gone_s, -missing))


def simulate_day(demand: Demand, replica: Replica, policy: ScalingPolicy, *, first: int | None = None) -> SimulatedDay:
    """Simulate a day second by second.

    Args:
        first: Ready replicas at the begin; None: the fewest that the policy allows.
    """
    seconds = len(demand.rates)
    fleet, controller = _Fleet(replica, policy.least if first is None else first), policy.controller()
    busy: list[float] = []
    waiting: list[float] = []
    ready: list[int] = []
    paid, late, worst = np.zeros(seconds), np.zeros(seconds), np.zeros(seconds)
    backlog = 0.0
    for now in range(seconds):
        fleet.advance(now)
        if now and now % policy.every_s == 0:
            seen = FleetSnapshot(now, fleet.ready, fleet.ready + fleet.num_starting, busy, waiting, ready)
            fleet.resize(controller.choose_replicas(seen), now)
        second = _simulate_second(float(demand.rates[now]), fleet, replica, backlog)
        backlog = second.backlog
        busy.append(second.busy)
        waiting.append(second.waiting)
        ready.append(fleet.ready)
        paid[now], late[now], worst[now] = fleet.ready + fleet.num_starting, second.late, second.worst_s
    return SimulatedDay(policy.name, demand.rates, np.array(ready), paid, late, worst)


@dataclass(frozen=True)
class _Second:
    busy: float
    waiting: float
    late: float
    worst_s: float
    backlog: float


def _simulate_second(rate: float, fleet: _Fleet, replica: Replica, backlog: float) -> _Second:
    """Simulate the requests of one second; `backlog` is the number that wait from earlier seconds."""
    workers = fleet.ready * replica.workers
    if not workers:
        return _Second(0.0, 0.0, rate, 0.0, backlog)
    misrouted, lost_wait, lost_worst = _misrouted_requests(rate, fleet, replica)
    load = rate * replica.service_s / workers
    if replica.fallbacks:
        queue = queue_with_fallback(load, replica.patience)
        late = rate * (queue.late + (1 - queue.late) * misrouted)
        worst_s = lost_worst + replica.deadline_s
        return _Second(load * (1 - queue.late) * workers, queue.waiting * workers + lost_wait, late, worst_s, 0.0)
    speed = workers / replica.service_s
    left = min(max(0.0, backlog + rate - speed), speed * replica.give_up_s)
    if not backlog and not left:
        queue = queue_without_fallback(load, replica.patience)
        wait_s = replica.service_s * min(queue.waiting / max(load, 1e-9) * np.log(1000), replica.give_up_s)
        return _Second(
            load * workers, queue.waiting * workers + lost_wait, rate * (1 - (1 - queue.late) * (1 - misrouted)),
            lost_worst + replica.service_s + wait_s, 0.0,
        )  # fmt: skip
    begin_s, end_s = sorted((backlog / speed, left / speed))
    patience_s = replica.deadline_s - replica.service_s
    over = 1.0 if begin_s >= patience_s else 0.0 if end_s <= patience_s else (end_s - patience_s) / (end_s - begin_s)
    late = rate * (1 - (1 - over) * (1 - misrouted))
    return _Second(float(workers), (backlog + left) / 2 + lost_wait, late, lost_worst + end_s + replica.service_s, left)


def _misrouted_requests(rate: float, fleet: _Fleet, replica: Replica) -> tuple[float, float, float]:
    """(share late, requests that wait, longest wait) of requests sent to stopped replicas and tried again."""
    gone = fleet.num_gone
    if not gone:
        return 0.0, 0.0, 0.0
    hit = gone / (gone + fleet.ready)
    patience_s, waited, mean_s, late, worst_s = replica.deadline_s - replica.service_s, 0.0, 0.0, 0.0, 0.0
    chance = 1.0
    for pause_s in _RETRY_S:
        chance *= hit
        if chance * rate < 1:
            break
        waited += pause_s
        mean_s += chance * pause_s
        if not late and waited > patience_s:
            late = chance
        worst_s = waited
    return late, rate * mean_s, worst_s
