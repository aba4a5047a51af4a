"""Requests that come together in one body of another protocol: in time, and others have their turns between."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from time import monotonic, perf_counter_ns
from types import SimpleNamespace
from typing import Any

import pytest

from forecache.realtime.answer.engine import AnswerEngine
from forecache.realtime.answer.model_path import TooLate
from forecache.realtime.answer.request_answer import MODEL, RequestAnswer, StageTimes
from forecache.realtime.deadline.clock import RequestClock
from forecache.realtime.deadline.cost import CostEstimate
from forecache.realtime.deadline.request_queue import RequestQueue
from forecache.realtime.http import protocol_base as module
from forecache.realtime.http.protocol_base import ProtocolHandler
from forecache.realtime.request.parsed_request import ParsedRequest
from forecache.realtime.served_release import ServedRelease

US, MS = 1_000, 1_000_000
MODEL_US, LAST_US = 200, 20


def cost(nanoseconds: int) -> CostEstimate:
    made = CostEstimate(nanoseconds)
    for _ in range(300):
        made.add_sample(nanoseconds)
    return made


def served(path: Any = None) -> Any:
    stub: Any = SimpleNamespace
    return ServedRelease(
        loaded=stub(release=stub(request=())), path=path or stub(in_loop=True),
        parser=stub(parse_values=lambda request, candidates: ParsedRequest(1, {}, (), b"")),
        lookups=stub(is_remote=lambda: False), rungs=(stub(name="default"),), renderer=stub(), cells=stub(), costs=(),
        model_cost=cost(MODEL_US * US), low_cost=cost(LAST_US * US),
    )  # fmt: skip


def work(took_us: int) -> None:
    end = perf_counter_ns() + took_us * US
    while perf_counter_ns() < end:
        pass


def answer_now(
    by: Any, request: Any, clock: RequestClock, times: StageTimes, *, why: str = "", waiting: int = 0
) -> RequestAnswer:
    work(LAST_US if why else MODEL_US)
    return RequestAnswer((), [0.0], "default" if why else MODEL, why=why, times=times)


async def answers(by: Any, rows: int, left_ms: float, backlog: RequestQueue) -> list[RequestAnswer]:
    exchange = ProtocolHandler(None, SimpleNamespace(answer_now=answer_now), backlog)  # type: ignore[arg-type]
    now = perf_counter_ns()
    asked: Any = [SimpleNamespace(request={}, candidates=None)] * rows
    found = await exchange._parse_and_answer(by, asked, RequestClock(now, now + int(left_ms * MS), left_ms), "")
    return [each.answered for each in found]


@pytest.fixture(autouse=True)
def _done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        module, "_finish_answer", lambda by, request, answered, clock: SimpleNamespace(answered=answered)
    )


def on_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


async def turns_of_others(done: asyncio.Event) -> int:
    turns = 0
    while not done.is_set():
        turns += 1
        await asyncio.sleep(0)
    return turns


@on_a_loop
async def test_many_rows_keep_time_for_the_last_rung_of_each_and_let_others_in_between() -> None:
    backlog, done = RequestQueue(asyncio.get_running_loop()), asyncio.Event()
    others = asyncio.create_task(turns_of_others(done))
    found = await answers(served(), 1_000, 60.0, backlog)
    done.set()
    # 1,000 rows at 20 us leave 40 ms for the model, which answers up to 222 of them at 180 us more each.
    assert 0 < sum(each.rung == MODEL for each in found) <= 250
    assert len(found) == 1_000
    assert await others > 20


@on_a_loop
async def test_rows_behind_the_deadline_are_answered_by_the_last_rung_in_slices_too() -> None:
    done = asyncio.Event()
    others = asyncio.create_task(turns_of_others(done))
    found = await answers(served(), 500, -1.0, RequestQueue(asyncio.get_running_loop()))
    done.set()
    assert {each.why for each in found} == {TooLate.reason}
    assert await others > 5


@on_a_loop
async def test_the_queue_learns_from_other_protocols_what_the_model_costs() -> None:
    backlog, by = RequestQueue(asyncio.get_running_loop()), served()
    for _ in range(300):
        await answers(by, 1, 1_000.0, backlog)
    assert backlog.model_cost.estimate > 0.9 * MODEL_US * US
    for _ in range(100):
        await answers(by, 1, -1.0, backlog)
    assert by.low_cost.estimate >= LAST_US * US


@on_a_loop
async def test_the_queue_learns_nothing_from_requests_that_fail_or_ask_nothing() -> None:
    backlog = RequestQueue(asyncio.get_running_loop())
    before = backlog.model_cost.estimate

    def fail(*_: Any, **more: Any) -> RequestAnswer:
        raise ValueError("no such key")

    def nothing(*_: Any, **more: Any) -> RequestAnswer:
        return RequestAnswer((), None, "order_given")

    for answer in (fail, nothing):
        exchange = ProtocolHandler(None, SimpleNamespace(answer_now=answer), backlog)  # type: ignore[arg-type]
        now, asked = perf_counter_ns(), [SimpleNamespace(request={}, candidates=None)]
        for _ in range(50):
            with contextlib.suppress(ValueError):
                await exchange._parse_and_answer(served(), asked, RequestClock(now, now + 10**12, 1e6), "")  # type: ignore[arg-type]
    assert backlog.model_cost.estimate == before


class Unread:
    """Look-ups that must not be read."""

    def is_remote(self) -> bool:
        return False

    def read(self, request: Any, now: float) -> Any:
        raise AssertionError("a look-up for a model that would be too late")


@pytest.mark.parametrize(("left_ms", "expected_s"), [(-1.0, 0.0), (20.0, 5.0)])
def test_nothing_is_looked_up_for_a_model_elsewhere_that_would_be_too_late(
    left_ms: float, expected_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    by = served(SimpleNamespace(in_loop=False, expected_s=lambda: expected_s))
    by.lookups = Unread()
    lower = RequestAnswer((), [0.0], "default")
    monkeypatch.setattr(
        AnswerEngine, "answer_by_fallback", lambda *_, why, **more: (setattr(lower, "why", why), lower)[1]
    )
    now = perf_counter_ns()
    clock = RequestClock(now, now + int(left_ms * MS), abs(left_ms))
    request = ParsedRequest(1, {}, ["a"], b"")
    began = monotonic()
    answered = asyncio.run(AnswerEngine({}).answer(by, request, clock, StageTimes()))
    assert (answered.why, answered.rung) == (TooLate.reason, "default")
    assert monotonic() - began < 5
