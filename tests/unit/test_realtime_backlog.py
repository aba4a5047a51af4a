"""Requests that wait for the event loop's thread under overload."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

import pytest

from forecache.realtime.deadline import OVERLOAD, RequestClock, RequestQueue

MS = 1_000_000


def on_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


class Time:
    """The time of these tests, which goes on by what is done, whatever else the machine does."""

    def __init__(self) -> None:
        self.now = 10**12

    def read(self) -> int:
        self.now += 200
        return self.now


TIME = Time()


@pytest.fixture(autouse=True)
def _time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forecache.realtime.deadline.perf_counter_ns", TIME.read)


def clock(left_ms: float, now: int) -> RequestClock:
    return RequestClock(now, now + int(left_ms * MS), left_ms)


def backlog_of(cost_ns: int) -> RequestQueue:
    """A backlog that knows what an answer of the model costs."""
    backlog = RequestQueue(asyncio.get_running_loop())
    for _ in range(200):
        backlog.model_cost.add_sample(cost_ns)
    return backlog


async def drain(backlog: RequestQueue) -> None:
    """Let the queue work until nobody waits."""
    while backlog.waiting:
        await asyncio.sleep(0)


async def burst(
    backlog: RequestQueue, deadlines_ms: list[float], cost_ns: int
) -> tuple[list[tuple[int, str]], list[float]]:
    """What became of requests that come at once, in the order in which they were answered: (number, why), ms left."""
    answered: list[tuple[int, str]] = []
    left: list[float] = []

    def run(number: int, until: int, why: str) -> None:
        if not why:
            TIME.now += cost_ns
            backlog.model_cost.add_sample(cost_ns)
        answered.append((number, why))
        left.append((until - TIME.read()) / MS)

    now = TIME.read()
    for number, deadline_ms in enumerate(deadlines_ms):
        each = clock(deadline_ms, now)
        backlog.enqueue(each, lambda why, n=number, until=each.until: run(n, until, why))  # type: ignore[misc]
    await drain(backlog)
    return answered, left


@on_a_loop
async def test_those_that_wait_are_answered_in_the_order_of_their_deadlines_while_there_is_time() -> None:
    backlog = RequestQueue(asyncio.get_running_loop())
    answered, _ = await burst(backlog, [60_000.0, 60_000.0, 50_000.0, 70_000.0], 10_000)
    assert answered == [(2, ""), (0, ""), (1, ""), (3, "")]
    assert backlog.waiting == 0


@on_a_loop
async def test_the_newest_come_first_where_time_is_short() -> None:
    backlog = backlog_of(10 * MS)
    answered, left = await burst(backlog, [75.0] * 5, 10 * MS)
    assert answered[0] == (4, "")
    assert min(left) > 0
    assert all(not why for _, why in answered)


@on_a_loop
async def test_after_a_pause_none_has_less_time_left_than_the_first_that_came() -> None:
    backlog = backlog_of(MS // 4)
    answered, left = await burst(backlog, [50.0 + number for number in range(40)], MS // 4)  # they came 1 ms apart
    assert [number for number, _ in answered] == list(range(40))
    assert left == sorted(left)


@on_a_loop
async def test_of_more_than_can_be_done_the_newest_get_the_model_and_the_oldest_a_lower_fallback_in_time() -> None:
    backlog = backlog_of(2 * MS)
    answered, left = await burst(backlog, [1000.0] * 2000, 2 * MS)
    assert len(answered) == 2000
    by_model = [number for number, why in answered if not why]
    given_up = [number for number, why in answered if why == OVERLOAD]
    assert len(by_model) + len(given_up) == 2000
    assert 100 < len(by_model) < 600
    assert min(by_model) > max(given_up)
    assert min(left) > 0


@on_a_loop
async def test_a_request_with_a_short_deadline_is_given_up_in_time_wherever_it_stands() -> None:
    backlog = backlog_of(10 * MS)
    deadlines = [60_000.0] * 20
    deadlines[10] = 100.0
    answered, left = await burst(backlog, deadlines, 10 * MS)
    assert dict(answered)[10] == OVERLOAD
    assert all(not why for number, why in answered if number != 10)
    assert min(left) > 0


@on_a_loop
async def test_a_request_that_waits_alone_has_its_turn_however_short_its_deadline_is() -> None:
    backlog = backlog_of(10 * MS)
    for deadline_ms in (0.05, 1.0, 100.0):
        answered, _ = await burst(backlog, [deadline_ms], 10 * MS)
        assert answered == [(0, "")]


@on_a_loop
async def test_of_two_that_cannot_both_be_done_one_is_given_up_for_the_other() -> None:
    backlog = backlog_of(10 * MS)
    answered, _ = await burst(backlog, [15.0, 14.0], 10 * MS)
    assert answered == [(1, OVERLOAD), (0, "")]


@on_a_loop
async def test_a_calm_worker_answers_at_once_and_in_order() -> None:
    backlog = RequestQueue(asyncio.get_running_loop())
    now = TIME.read()
    assert backlog.can_run_now(clock(50, now), now + 4 * MS)
    assert not backlog.can_run_now(clock(50, now), now + 6 * MS)
    backlog.enqueue(clock(60_000, now), lambda why: None)
    assert not backlog.can_run_now(clock(50, now), now)
    await drain(backlog)
    assert backlog.can_run_now(clock(50, now), now)


@on_a_loop
async def test_what_is_answered_is_forgotten_while_others_still_wait() -> None:
    backlog = RequestQueue(asyncio.get_running_loop())
    for _ in range(1000):
        backlog.enqueue(clock(0, TIME.read()), lambda why: None)
    await drain(backlog)
    assert not backlog._stack
    assert not backlog._by_deadline
