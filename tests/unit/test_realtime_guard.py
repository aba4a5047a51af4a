"""Python code that does not return, on the thread of the event loop."""

import time
from collections.abc import Iterator

import pytest

from forecache.realtime.answer.calibrate import calibrated_s
from forecache.realtime.answer.guard import Guard, Spun

MS = 1_000_000


@pytest.fixture
def guard() -> Iterator[Guard]:
    guard = Guard()
    yield guard
    guard.disarm()


def spin() -> None:
    while True:
        try:
            while True:
                pass
        except Exception:  # noqa: BLE001  # code that catches everything it may
            continue


def test_a_spin_is_ended_when_it_has_used_up_its_time_on_the_processor(guard: Guard) -> None:
    began = time.monotonic()
    guard.arm(10 * MS, 10_000 * MS)
    with pytest.raises(Spun):
        spin()
    guard.disarm()
    assert guard.spun
    assert time.monotonic() - began < 5


def test_a_sleep_is_ended_when_no_time_is_left_and_is_no_spin(guard: Guard) -> None:
    guard.arm(10 * MS, 50 * MS)
    with pytest.raises(Spun):
        time.sleep(30)
    guard.disarm()
    assert not guard.spun


def test_code_that_returns_in_time_is_left_alone_and_what_follows_too(guard: Guard) -> None:
    for _ in range(2000):
        guard.arm(MS, MS)
        guard.disarm()
    time.sleep(0.02)


def test_a_warm_up_that_never_ends_is_ended_and_counts_as_endless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forecache.realtime.answer.calibrate._PATIENCE_S", 0.2)
    assert calibrated_s([spin]) == float("inf")


def test_a_warm_up_that_fails_counts_as_endless() -> None:
    def fail() -> None:
        raise ValueError("no")

    assert calibrated_s([fail]) == float("inf")


def test_a_call_that_sleeps_is_slow_although_it_needs_no_processor() -> None:
    assert calibrated_s([lambda: time.sleep(0.005)]) >= 0.005
    assert calibrated_s([lambda: None]) < 0.002
