"""Transform and model on the event loop's thread: what they raise becomes a fallback, and a line in the log."""

import asyncio
import sys
from time import perf_counter_ns
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from forecache.realtime.answer import in_loop
from forecache.realtime.answer.in_loop import CpuBudgetError, CpuGuard, InLoopPath
from forecache.realtime.request.request_answer import LookupResult, ModelCallError, ParsedRequest, TooLate


def path_of(scores_of: Any, *, used_ns: int = 0, guard: Any = None, p99_s: float = 0.0005) -> InLoopPath:
    builder = SimpleNamespace(build_rows=lambda columns, views, known: None)
    loaded: Any = SimpleNamespace(
        builder=builder, features_of=lambda rows: np.zeros((1, 1)), scores_of=scores_of,
        release=SimpleNamespace(name="ranking", number=1),
    )  # fmt: skip
    guard = guard or SimpleNamespace(arm=lambda cpu, left: None, disarm=lambda: None, used_ns=used_ns)
    return InLoopPath(loaded, guard, p99_s=p99_s)


def fail(features: np.ndarray) -> np.ndarray:
    raise ValueError("no such store")


def leave(features: np.ndarray) -> np.ndarray:
    sys.exit(3)


def cancel(features: np.ndarray) -> np.ndarray:
    raise asyncio.CancelledError


@pytest.mark.parametrize(("scores_of", "told"), [(fail, "no such store"), (leave, "SystemExit: 3"), (cancel, "Canc")])
def test_whatever_is_raised_costs_one_answer_its_model_and_is_logged_once(
    scores_of: Any, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = path_of(scores_of)
    for _ in range(3):
        with pytest.raises(ModelCallError):
            path.score_now(ParsedRequest(1, {}, (), b""), LookupResult(), 10_000_000)
    assert [record.message for record in caplog.records if told in record.message] == caplog.messages
    assert len(caplog.messages) == 1


def spin(features: np.ndarray) -> np.ndarray:
    raise CpuBudgetError


@pytest.mark.parametrize(
    ("used_ms", "took_ms", "has_spun"),
    [(1.2, 100.2, False), (1.2, 5.0, True), (3.0, 100.0, False), (5.0, 100.0, True), (0.9, 1.0, False)],
)
def test_a_call_that_was_ended_has_spun_if_it_worked_for_much_of_its_time(
    used_ms: float, took_ms: float, has_spun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alarms that find a call asleep work too: that is no spin."""
    path = path_of(spin, used_ns=int(used_ms * 1e6))
    clock = iter([0, 0, int(took_ms * 1e6)])
    monkeypatch.setattr(in_loop, "perf_counter_ns", lambda: next(clock))
    with pytest.raises(TooLate):
        path.score_now(ParsedRequest(1, {}, (), b""), LookupResult(), 200_000_000)
    assert bool(path.misbehaved) == has_spun


def test_a_healthy_call_has_all_the_time_that_its_request_has_left_where_that_is_little() -> None:
    def work(features: np.ndarray) -> np.ndarray:
        end = perf_counter_ns() + 6_000_000
        while perf_counter_ns() < end:
            pass
        return np.zeros(1)

    def is_answered() -> bool:
        path = path_of(work, guard=CpuGuard(), p99_s=0.006)
        try:
            return path.score_now(ParsedRequest(1, {}, (), b""), LookupResult(), 11_500_000).tolist() == [0]
        except TooLate:
            return False

    assert any(is_answered() for _ in range(20))  # a busy machine may keep some from the processor for too long
    path = path_of(work, guard=CpuGuard(), p99_s=0.006)
    with pytest.raises(TooLate):
        path.score_now(ParsedRequest(1, {}, (), b""), LookupResult(), 2_000_000)


def test_calls_that_had_less_time_than_usual_do_not_move_their_model_out(monkeypatch: pytest.MonkeyPatch) -> None:
    path = path_of(spin, used_ns=900_000)
    clock = iter(range(0, 10**9, 300_000))  # each call is ended after 0.6 ms, and takes 0.5 as a rule
    monkeypatch.setattr(in_loop, "perf_counter_ns", lambda: next(clock))
    for _ in range(20):
        with pytest.raises(TooLate):
            path.score_now(ParsedRequest(1, {}, (), b""), LookupResult(), 600_000)
    assert not path.misbehaved
