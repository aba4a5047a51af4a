"""Python code that does not return, on the thread of the event loop."""

import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from forecache.realtime.answer.in_loop import CpuBudgetError, CpuGuard, measure_p99_s

MS = 1_000_000


@pytest.fixture
def guard() -> Iterator[CpuGuard]:
    guard = CpuGuard()
    yield guard
    guard.disarm()
    signal.setitimer(signal.ITIMER_REAL, 0.0)  # the next test has an alarm of its own


def is_ended(guard: CpuGuard, call: Callable[[], None], *, cpu_ns: int, left_ns: int) -> bool:
    guard.arm(cpu_ns, left_ns)
    try:
        call()
    except CpuBudgetError:
        guard.disarm()
        return True
    guard.disarm()
    return False


def spin() -> None:
    while True:
        try:
            while True:
                pass
        except Exception:  # noqa: BLE001  # code that catches everything it may
            continue


def test_a_spin_is_ended_when_it_has_used_up_its_time_on_the_processor(guard: CpuGuard) -> None:
    began = time.monotonic()
    assert is_ended(guard, spin, cpu_ns=10 * MS, left_ns=100_000 * MS)
    assert guard.used_ns >= 10 * MS
    assert time.monotonic() - began < 50


def test_a_sleep_is_ended_when_no_time_is_left_and_is_no_spin(guard: CpuGuard) -> None:
    assert is_ended(guard, lambda: time.sleep(30), cpu_ns=10 * MS, left_ns=50 * MS)
    assert guard.used_ns < 10 * MS


def test_a_sleep_is_ended_also_if_an_alarm_came_just_before_it_began(guard: CpuGuard) -> None:
    came: list[int] = []

    def come_too_early(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            guard._ring(number, frame)

    signal.signal(signal.SIGALRM, come_too_early)
    assert is_ended(guard, lambda: time.sleep(30), cpu_ns=10 * MS, left_ns=50 * MS)
    assert len(came) > 1


def test_a_loop_that_catches_everything_is_ended_all_the_same(guard: CpuGuard) -> None:
    caught = []

    def stubborn() -> None:
        while len(caught) < 2:
            try:
                spin()
            except BaseException as error:  # noqa: BLE001
                caught.append(error)

    assert not is_ended(guard, stubborn, cpu_ns=5 * MS, left_ns=100_000 * MS)
    assert [type(each) for each in caught] == [CpuBudgetError, CpuBudgetError]


def test_code_that_returns_in_time_is_left_alone_and_what_follows_too(guard: CpuGuard) -> None:
    for _ in range(2000):
        guard.arm(200 * MS, 200 * MS)
        guard.disarm()
    time.sleep(0.3)


def test_the_alarm_of_one_call_serves_those_behind_it_and_none_is_set_without_calls(
    guard: CpuGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets: list[float] = []
    monkeypatch.setattr(
        signal,
        "setitimer",
        lambda kind, after_s, again_s=0.0, real=signal.setitimer: (
            sets.append(after_s),
            real(kind, after_s, again_s),
        ),
    )
    calls, until = 0, time.monotonic() + 0.1
    while time.monotonic() < until or calls < 1000:
        guard.arm(20 * MS, 10_000 * MS)
        guard.disarm()
        calls += 1
    assert 1 <= len(sets) < calls / 10, "only when it has rung"
    time.sleep(0.05)
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0.0, "nobody calls, and it is not set again"
    sets.clear()
    for left_ms in (10_000, 400):
        guard.arm(10_000 * MS, left_ms * MS)
        guard.disarm()
    assert sets == [5.0, 0.2], "a call with less time has it ring sooner"


@pytest.mark.parametrize("left_ms", [2, 10, 50])
def test_a_call_is_ended_before_half_as_much_again_has_passed(guard: CpuGuard, left_ms: int) -> None:
    took = []
    for _ in range(5):
        began = time.monotonic()
        assert is_ended(guard, lambda: time.sleep(5), cpu_ns=1000 * MS, left_ns=left_ms * MS)
        took.append((time.monotonic() - began) * 1e3)
    assert left_ms <= min(took) <= 1.5 * left_ms + 3  # a busy machine may keep some of the calls longer


def test_a_warm_up_that_never_ends_is_ended_and_counts_as_endless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forecache.realtime.answer.in_loop._PATIENCE_S", 0.2)
    assert measure_p99_s([spin]) == float("inf")


def test_a_warm_up_that_fails_counts_as_endless() -> None:
    def fail() -> None:
        raise ValueError("no")

    assert measure_p99_s([fail]) == float("inf")


def test_a_call_that_sleeps_is_slow_although_it_needs_no_processor() -> None:
    assert measure_p99_s([lambda: time.sleep(0.005)]) >= 0.005
    assert any(measure_p99_s([lambda: None]) < 0.002 for _ in range(10))  # a busy machine may keep some from running
