"""The simulator's queue, against queueing theory and against requests that are followed one by one."""

import numpy as np
import pytest

from forecache.plugins.cost.autoscalers import FixedReplicas
from forecache.plugins.cost.demand import constant_demand
from forecache.plugins.cost.simulate_day import (
    Replica,
    queue_with_fallback,
    queue_without_fallback,
    simulate_day,
)


def followed(load: float, patience: float, *, requests: int = 200_000, seed: int = 7) -> tuple[float, float]:
    """(share that is late, mean number that wait) of requests followed one by one; late ones do not join."""
    random = np.random.default_rng(seed)
    arrivals = np.cumsum(random.exponential(1 / load, requests)).tolist()
    times = random.exponential(1.0, requests).tolist()
    free, late, waited = 0.0, 0, 0.0
    for arrival, time in zip(arrivals, times, strict=True):
        wait = max(0.0, free - arrival)
        if wait > patience:
            late += 1
            continue
        waited += wait
        free = max(free, arrival) + time
    return late / requests, waited / arrivals[-1]


def test_a_queue_that_all_requests_join_by_textbook_figures() -> None:
    # M/M/1 at 0.5 Erlang: half wait, half a request at a time. At 0.8 Erlang four fifths wait, 3.2 requests.
    assert queue_without_fallback(0.5, 0.0).late == pytest.approx(0.5)
    assert queue_without_fallback(0.5, 0.0).waiting == pytest.approx(0.5)
    assert queue_without_fallback(0.8, 0.0).late == pytest.approx(0.8)
    assert queue_without_fallback(0.8, 0.0).waiting == pytest.approx(3.2)
    assert queue_without_fallback(0.8, 5.0).late == pytest.approx(0.8 / np.e)
    assert queue_without_fallback(1.0, 5.0).late == 1.0


def test_a_queue_that_late_requests_do_not_join_by_barrers_formula() -> None:
    for load in (0.3, 0.9, 1.1, 2.0):
        end = np.exp(-(1 - load) * 5.0)
        assert queue_with_fallback(load, 5.0).late == pytest.approx((1 - load) * load * end / (1 - load**2 * end))
    assert queue_with_fallback(1.0, 5.0).late == pytest.approx(1 / 7)
    assert queue_with_fallback(3.0, 100.0).late == pytest.approx(2 / 3)
    assert queue_with_fallback(0.5, -0.1).late == 1.0
    assert queue_with_fallback(0.6, 1e6).waiting == pytest.approx(queue_without_fallback(0.6, 1e6).waiting)


@pytest.mark.parametrize(("load", "patience"), [(0.8, 4.0), (0.99, 10.0), (1.6, 6.0), (0.9, 1.5)])
def test_requests_that_are_followed_one_by_one_meet_the_same_waits(load: float, patience: float) -> None:
    late, waiting = followed(load, patience)
    formula = queue_with_fallback(load, patience)
    assert late == pytest.approx(formula.late, rel=0.06, abs=0.001)
    assert waiting == pytest.approx(formula.waiting, rel=0.06)


def test_the_simulator_meets_the_waits_of_requests_that_are_followed_one_by_one() -> None:
    replica = Replica(service_s=0.01, deadline_s=0.05)
    found = simulate_day(
        constant_demand(4 * 95.0, 120), replica, FixedReplicas(4)
    )  # each worker at 0.95 Erlang, patience 4
    late, _ = followed(0.95, 4.0)
    assert found.late_share == pytest.approx(late, rel=0.06)


def test_without_a_fallbacks_a_backlog_grows_and_is_worked_off() -> None:
    replica = Replica(service_s=0.01, deadline_s=0.05, fallbacks=False)
    rates = np.r_[np.full(60, 50.0), np.full(10, 200.0), np.full(60, 50.0)]
    demand = constant_demand(50.0, 130)
    found = simulate_day(type(demand)(rates, "a burst"), replica, FixedReplicas(1))
    # 10 s of 100 requests too many wait 10 s at the end, and 50 a second leave them in 20 s.
    assert found.worst_s[69] == pytest.approx(10.0, abs=0.1)
    assert found.late[69] == 200
    late = np.flatnonzero(found.late > 40)
    assert (late[0], late[-1]) == (60, 89)
