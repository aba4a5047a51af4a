"""Requests that come together in one body of another protocol: in time, and others have their turns between."""

import asyncio
from collections.abc import Callable, Coroutine
from time import monotonic
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from forecache.kit.http import problems
from forecache.kit.http.problems import Problem
from forecache.realtime.answer import engine as engine_module
from forecache.realtime.answer.engine import AnswerEngine, RequestHandler
from forecache.realtime.answer.served_release import Exchange, ModelRequest, ServedRelease
from forecache.realtime.deadline import CostEstimate, RequestClock, RequestQueue, may_begin
from forecache.realtime.request.request_answer import MODEL, ParsedRequest, RequestAnswer, StageTimes, TooLate
from forecache.serve.reader.http.messages import Reply

US, MS = 1_000, 1_000_000
MODEL_US, LAST_US = 200, 20


class Clock:
    """Nanoseconds that only the work of these tests takes: a busy machine takes none of a deadline."""

    def __init__(self) -> None:
        self.now_ns = 10**12

    def read(self) -> int:
        return self.now_ns


CLOCK = Clock()


@pytest.fixture(autouse=True)
def _engine_with_this_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "perf_counter_ns", CLOCK.read)


def cost(nanoseconds: int) -> CostEstimate:
    made = CostEstimate(nanoseconds)
    for _ in range(300):
        made.add_sample(nanoseconds)
    return made


class Protocol:
    """Takes a number of requests, and keeps what is answered."""

    def __init__(self, rows: int) -> None:
        self.rows, self.answers = rows, list[RequestAnswer]()

    def check_headers(self, headers: Any) -> None: ...

    def parse(self, exchange: Exchange, body: bytes) -> list[ModelRequest]:
        return [ModelRequest(values={}) for _ in range(self.rows)]

    def render(self, exchange: Exchange) -> Reply:
        self.answers = exchange.answers
        return Reply(200, (), b"")

    def render_error(self, problem: Problem) -> Reply:
        return Reply(problem.kind.status, (), b"")


class Call:
    """A call whose body has come."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.arrived, self.waited, self.is_surplus = CLOCK.now_ns, 0, False
        self.replied = asyncio.Event()

    def whole_body(self, limit_bytes: int, memory: Any) -> bytes:
        return b""

    def respond(self, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.replied.set()


def served(path: Any = None) -> Any:
    stub: Any = SimpleNamespace
    return ServedRelease(
        loaded=stub(release=stub(request=(), name="m", deadline_ms=1e6)), path=path or stub(in_loop=True),
        parser=stub(parse_values=lambda request, candidates: ParsedRequest(1, {}, (), b"")),
        lookups=stub(is_remote=lambda: False), fallbacks=(stub(name="default"),), renderer=stub(),
        cells=stub(count=lambda *_, **__: None), costs=(cost(LAST_US * US),),
        model_cost=cost(MODEL_US * US), low_cost=cost(LAST_US * US),
    )  # fmt: skip


def work(took_us: int) -> None:
    CLOCK.now_ns += took_us * US


class Engine:
    """Takes the time of a model, or of a fallback."""

    def answer_now(
        self, by: Any, request: Any, clock: RequestClock, times: StageTimes, *, waiting: int, reserve_ns: int
    ) -> RequestAnswer:
        if not may_begin(by.model_cost, CLOCK.now_ns, clock.until, reserve=reserve_ns):
            return self.answer_by_fallback(by, request, clock, times, why=TooLate.reason)
        work(MODEL_US)
        return RequestAnswer((), np.zeros(1), MODEL, times=times)

    def answer_by_fallback(
        self, by: Any, request: Any, clock: RequestClock, times: StageTimes, *, why: str, **more: Any
    ) -> RequestAnswer:
        work(LAST_US)
        return RequestAnswer((), np.zeros(1), "default", fallback_reason=why, times=times)


async def reply_to(by: Any, protocol: Protocol, left_ms: float, queue: RequestQueue, engine: Any = None) -> Call:
    """Handle a call whose deadline is so many milliseconds away."""
    context: Any = SimpleNamespace(
        access=None, bodies=None, settings=SimpleNamespace(reader_max_body_bytes=1),
        metrics=SimpleNamespace(observe=lambda *_: None), catalog=SimpleNamespace(check_for_damage=lambda: None),
    )  # fmt: skip
    call: Any = Call()
    waited_ms = 0.0 if left_ms > 0 else 1000.0
    call.headers["x-deadline-ms"] = str(waited_ms + left_ms)
    call.arrived -= int(waited_ms * MS)
    assert RequestHandler(context, engine or Engine(), queue).handle(by, protocol, call) is None
    await call.replied.wait()
    return call  # type: ignore[no-any-return]


async def answers(by: Any, rows: int, left_ms: float, queue: RequestQueue) -> list[RequestAnswer]:
    protocol = Protocol(rows)
    await reply_to(by, protocol, left_ms, queue)
    return protocol.answers


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
async def test_many_rows_keep_time_for_the_last_fallback_of_each_and_let_others_in_between() -> None:
    backlog, done = RequestQueue(asyncio.get_running_loop()), asyncio.Event()
    others = asyncio.create_task(turns_of_others(done))
    found = await answers(served(), 1_000, 60.0, backlog)
    done.set()
    # 1,000 rows at 20 us leave 40 ms for the model, which answers up to 222 of them at 180 us more each.
    assert 200 < sum(each.answered_by == MODEL for each in found) <= 222
    assert len(found) == 1_000
    assert await others > 20


@on_a_loop
async def test_rows_behind_the_deadline_are_answered_by_the_last_fallback_in_slices_too() -> None:
    done = asyncio.Event()
    others = asyncio.create_task(turns_of_others(done))
    found = await answers(served(), 500, -1.0, RequestQueue(asyncio.get_running_loop()))
    done.set()
    assert {each.fallback_reason for each in found} == {TooLate.reason}
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

    for answer, status in ((fail, 500), (nothing, 200)):
        engine = SimpleNamespace(answer_now=answer)
        for _ in range(50):
            assert (await reply_to(served(), Protocol(1), 1e6, backlog, engine)).status == status
    assert backlog.model_cost.estimate == before


class Split:
    """Assigns each request to one release, or refuses it; keeps what is offered to the shadow."""

    def __init__(self, by: Any, *, refuses: bool) -> None:
        self.by, self.refuses, self.offered = by, refuses, 0

    def assign_release(self, parse: Callable[[Any], ParsedRequest]) -> tuple[Any, ParsedRequest]:
        if self.refuses:
            raise Problem(problems.BAD_REQUEST, "wrong")
        return self.by, parse(self.by)

    def offer_to_shadow(self, *_: Any) -> None:
        self.offered += 1


@pytest.mark.parametrize(("refuses", "status", "offered"), [(False, 200, 3), (True, 400, 0)])
def test_each_answered_request_is_offered_to_the_shadow_and_no_refused_one(
    refuses: bool, status: int, offered: int
) -> None:
    async def ask() -> None:
        by = served()
        by.split = Split(by, refuses=refuses)
        call = await reply_to(by, Protocol(3), 1e6, RequestQueue(asyncio.get_running_loop()))
        assert (call.status, by.split.offered) == (status, offered)

    asyncio.run(ask())


class Unread:
    """Look-ups that must not be read."""

    def is_remote(self) -> bool:
        return False

    def read(self, request: Any, now: float) -> Any:
        raise AssertionError("a look-up for a model that would be too late")


@pytest.mark.parametrize(("left_ms", "expected_s"), [(-1.0, 0.0), (20.0, 300.0)])
def test_nothing_is_looked_up_for_a_model_elsewhere_that_would_be_too_late(
    left_ms: float, expected_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    by = served(SimpleNamespace(in_loop=False, expected_s=lambda: expected_s))
    by.lookups = Unread()
    lower = RequestAnswer((), [0.0], "default")
    monkeypatch.setattr(
        AnswerEngine, "answer_by_fallback", lambda *_, why, **more: (setattr(lower, "fallback_reason", why), lower)[1]
    )
    now = CLOCK.now_ns
    clock = RequestClock(now, now + int(left_ms * MS), abs(left_ms))
    request = ParsedRequest(1, {}, ["a"], b"")
    began = monotonic()
    answered = asyncio.run(AnswerEngine({}).answer(by, request, clock, StageTimes()))
    assert (answered.fallback_reason, answered.answered_by) == (TooLate.reason, "default")
    assert monotonic() - began < 60


def test_a_fallback_elsewhere_costs_what_the_loop_did_for_it_and_not_the_wait_for_the_model() -> None:
    by = served(SimpleNamespace(in_loop=True))
    times = StageTimes(parse=1, lookup=10, model=10**9, fallbacks=2)
    assert by.loop_time_ns(RequestAnswer((), None, "default", fallback_reason=TooLate.reason, times=times)) == 3
    assert by.loop_time_ns(RequestAnswer((), np.zeros(1), MODEL, times=times)) == 10**9 + 13
