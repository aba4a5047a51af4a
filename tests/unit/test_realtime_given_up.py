"""The fallback of a request that has no time for the model: while others wait, one that costs much less than it."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from forecache.declare.realtime.lookups import Default, OrderGiven
from forecache.realtime import deadline
from forecache.realtime.answer.engine import AnswerEngine, has_time_for_last_only
from forecache.realtime.answer.fallbacks import open_fallbacks
from forecache.realtime.deadline import CostEstimate, RequestClock, may_begin
from forecache.realtime.request.request_answer import ParsedRequest, StageTimes

US, MS, FAR = 1_000, 1_000_000, 10**18


def cost(nanoseconds: int) -> CostEstimate:
    made = CostEstimate(nanoseconds)
    for _ in range(300):
        made.add_sample(nanoseconds)
    return made


def served(*, model_ns: int, fallback_ns: int) -> Any:
    """A model with a fallback that scores, above the order given, which costs next to nothing."""
    costs = (cost(fallback_ns), cost(US))
    return SimpleNamespace(
        fallbacks=open_fallbacks((Default(0.5), OrderGiven())), costs=costs, model_cost=cost(model_ns)
    )


def answered_by_of(model: Any, *, waiting: int) -> tuple[str, bool]:
    """The fallback that answers, and whether no more than the names of candidates had to be read for it."""
    clock, request = RequestClock(0, FAR, 1e9), ParsedRequest(2, {}, ["a", "b"], b"")
    engine = AnswerEngine({})
    is_hasty = has_time_for_last_only(model, clock, waiting)
    return engine.answer_by_fallback(
        model, request, clock, StageTimes(), why="overload", waiting=waiting
    ).answered_by, is_hasty


@pytest.mark.parametrize(("waiting", "answered_by"), [(0, "default"), (1, "order_given"), (40, "order_given")])
def test_a_fallback_that_costs_as_much_as_the_model_answers_only_where_nobody_waits(
    waiting: int, answered_by: str
) -> None:
    model = served(model_ns=300 * US, fallback_ns=280 * US)
    assert answered_by_of(model, waiting=waiting) == (answered_by, waiting > 0)


@pytest.mark.parametrize(
    ("left", "more", "may"),
    [
        (1000, {}, True), (999, {}, False), (0, {}, False), (-1, {}, False),
        (1500, {"reserve": 500}, True), (1499, {"reserve": 500}, False),
        (3000, {"waiting": 2}, True), (2999, {"waiting": 2}, False),
        (10**9, {"most": 1000}, True), (10**9, {"most": 999}, False), (999, {"most": 10**9}, False),
    ],
)  # fmt: skip
def test_work_may_begin_if_it_ends_in_time(left: int, more: dict[str, Any], may: bool) -> None:
    assert may_begin(1000, 5000, 5000 + left, **more) is may
    estimate = CostEstimate(1)
    estimate.estimate = 1000
    assert may_begin(estimate, 5000, 5000 + left, **more) is may


def test_one_file_decides_by_the_deadline() -> None:
    """All other modules ask `may_begin`."""
    folder = Path(deadline.__file__).parents[1]
    asking = [path.name for path in folder.rglob("*.py") if re.search(r"\.fits\(", path.read_text())]
    assert asking == ["deadline.py"]


def test_a_fallback_that_costs_little_answers_also_where_others_wait() -> None:
    assert answered_by_of(served(model_ns=300 * US, fallback_ns=20 * US), waiting=40) == ("default", False)


def test_a_fallback_that_all_who_wait_have_no_time_for_is_left_out() -> None:
    model = served(model_ns=10 * MS, fallback_ns=MS)
    answered = AnswerEngine({}).answer_by_fallback(
        model,
        ParsedRequest(1, {}, ["a"], b""),
        RequestClock(0, _soon(), 50.0),
        StageTimes(),
        why="overload",
        waiting=99,
    )
    assert answered.answered_by == "order_given"


def _soon() -> int:
    from time import perf_counter_ns

    return perf_counter_ns() + 50 * MS
