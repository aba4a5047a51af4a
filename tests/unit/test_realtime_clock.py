"""When a request arrived and until when it is answered, as its headers and the wait in its socket say."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from forecache.kit.http.problems import Problem
from forecache.realtime.deadline import RequestClock, clock_of, shorten_deadline

MS = 1_000_000
STARTED = 10**12


def call(headers: dict[str, str], waited: int = 0) -> Any:
    return SimpleNamespace(headers=headers, arrived=STARTED, waited=waited)


def budget(headers: dict[str, str], most_ms: float = 50.0) -> float:
    return clock_of(call(headers), most_ms).deadline_ms


@pytest.mark.parametrize(
    ("headers", "granted"),
    [
        ({}, 50),
        ({"x-deadline-ms": "20"}, 20),
        ({"x-deadline-ms": "20.5"}, 20.5),
        ({"x-deadline-ms": "9000"}, 50),
        ({"grpc-timeout": "30m"}, 30),
        ({"grpc-timeout": "30000u"}, 30),
        ({"grpc-timeout": "1S"}, 50),
        ({"x-envoy-expected-rq-timeout-ms": "15"}, 15),
        ({"x-deadline-ms": "20", "grpc-timeout": "10m"}, 10),
    ],
)
def test_the_shortest_of_what_is_declared_and_asked_for_is_granted(headers: dict[str, str], granted: float) -> None:
    assert budget(headers) == granted
    clock = clock_of(call(headers), 50.0)
    assert clock.until - clock.arrived == granted * MS


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e6, 1e9])
@pytest.mark.parametrize("prefix", ["", "t="])
def test_the_balancer_says_when_a_request_arrived_in_any_unit(scale: float, prefix: str) -> None:
    stamp = f"{prefix}{(time.time() - 0.030) * scale:.3f}"
    clock = clock_of(call({"x-request-start": stamp}), 50.0)
    assert 29 * MS < STARTED - clock.arrived < 10_000 * MS


@pytest.mark.parametrize("ahead_s", [36000, -3600])
def test_a_balancer_whose_clock_is_wrong_is_not_believed(ahead_s: float) -> None:
    clock = clock_of(call({"x-request-start": f"t={time.time() + ahead_s:.3f}"}, waited=2 * MS), 50.0)
    assert STARTED - clock.arrived == 2 * MS


@pytest.mark.parametrize("stamp", ["t=now", ""])
def test_a_balancer_that_stamps_no_time_is_not_believed(stamp: str) -> None:
    clock = clock_of(call({"x-request-start": stamp}, waited=2 * MS), 50.0)
    assert STARTED - clock.arrived == 2 * MS


def test_without_a_balancer_the_wait_in_the_socket_counts() -> None:
    clock = clock_of(call({}, waited=3 * MS), 50.0)
    assert STARTED - clock.arrived == 3 * MS
    assert clock.until - STARTED == 47 * MS


@pytest.mark.parametrize("headers", [{"x-deadline-ms": "0"}, {"grpc-timeout": "0m"}])
def test_a_request_without_time_left_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(Problem, match="0 ms left") as caught:
        budget(headers)
    assert caught.value.kind.status == 504


def test_a_request_that_waited_too_long_before_it_came_is_still_answered() -> None:
    clock = clock_of(call({"x-request-start": f"{time.time() - 0.2:.6f}"}), 50.0)
    assert clock.until < STARTED


@pytest.mark.parametrize(
    "headers",
    [
        {"x-deadline-ms": "soon"},
        {"x-deadline-ms": "-1"},
        {"x-deadline-ms": "1e9"},
        {"grpc-timeout": "30"},
        {"grpc-timeout": "123456789m"},
        {"x-envoy-expected-rq-timeout-ms": ""},
    ],
)
def test_a_header_that_is_no_time_is_refused_by_its_name(headers: dict[str, str]) -> None:
    with pytest.raises(Problem, match=next(iter(headers))) as caught:
        budget(headers)
    assert caught.value.kind.status == 400


def test_a_deadline_in_the_body_only_shortens_the_one_of_the_headers() -> None:
    clock = RequestClock(1_000, 1_000 + 40_000_000, 40.0)
    assert shorten_deadline(clock, 50.0) is clock
    assert shorten_deadline(clock, 5.0) == RequestClock(1_000, 1_000 + 5_000_000, 5.0)
    with pytest.raises(Problem) as refused:
        shorten_deadline(clock, 0.0)
    assert (refused.value.kind.status, refused.value.members) == (504, {"deadline_ms": 0.0})
