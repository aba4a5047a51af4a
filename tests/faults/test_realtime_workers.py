"""Model processes that sleep, spin, crash, are stopped, or leak: no answer is late, and the model soon comes back."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import faulty_scorer
import numpy as np
import pytest
from pool_support import (
    SUPPORT,
    TESTS,
    RunningPath,
    alive,
    running_path,
    slowness,
)
from waiting import eventually

from forecache.base.settings import PROJECT_ROOT
from forecache.realtime.request.request_answer import ModelCallError, NoScores, RefusedCallError, TooLate, WorkerLost

pytestmark = pytest.mark.faults
EXPECTED = faulty_scorer.found().views["view"].sum(axis=1)
DEADLINE_MS = 50.0
BACK_S = 1.0


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SUPPORT), str(PROJECT_ROOT)]))
    monkeypatch.setenv(TESTS, str(os.getpid()))


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunningPath]:
    with running_path(tmp_path) as path:
        yield path


def ask_steadily(
    running: RunningPath, seconds: float, *, rate: float = 200.0, deadline_ms: float = DEADLINE_MS
) -> list[tuple]:
    """Send requests in an open loop for so many seconds, without those for which the loop is held up.

    Returns of each when it was sent, how it ended and the seconds that it took. None is later than its
    deadline, but for the longest time for which other work of this machine keeps the loop.
    """
    path = running.path
    outcomes: list[tuple] = []
    longest = 0.0

    async def one() -> None:
        sent = time.monotonic()
        try:
            if path.expected_s() > deadline_ms / 1000:  # as the engine asks
                raise TooLate
            scores = await path.score(faulty_scorer.request(), faulty_scorer.found(), sent + deadline_ms / 1000)
            outcome: object = bool(np.array_equal(scores, EXPECTED))
        except NoScores as error:
            outcome = type(error)
        outcomes.append((sent, outcome, time.monotonic() - sent))

    async def all_of_them() -> None:
        nonlocal longest
        tasks, gathered = [], None
        while gathered is None or not gathered.done():
            if len(tasks) < seconds * rate:
                tasks.append(asyncio.ensure_future(one()))
            elif gathered is None:
                gathered = asyncio.gather(*tasks)
            slept = time.monotonic()
            await asyncio.sleep(1 / rate)
            # A timer that is due in the pause is late by no more than the pause as it became.
            longest = max(longest, time.monotonic() - slept)
            running.lag_s += time.monotonic() - slept - 1 / rate
        await gathered

    running.run(all_of_them())
    assert max(took for _, _, took in outcomes) <= deadline_ms / 1000 + longest + 0.002
    return outcomes


def is_busy(running: RunningPath) -> bool:
    """Whether other work has taken much of the machine from it."""
    return slowness() >= 1.5 or running.lag_s > 0.1


def check_back(running: RunningPath, mended: float, outcomes: list[tuple]) -> None:
    """The model answers within a second after the fault."""
    assert all(outcome in (True, TooLate, WorkerLost, RefusedCallError, ModelCallError) or issubclass(outcome, TooLate)
               for _, outcome, _ in outcomes if outcome is not True)  # fmt: skip
    first = min(sent + took for sent, outcome, took in outcomes if outcome is True and sent > mended)
    assert first - mended < BACK_S * slowness() + 4 * running.lag_s
    last = [outcome for _, outcome, _ in sorted(outcomes, key=lambda each: each[0])[-20:]]
    assert last.count(True) >= (10 if is_busy(running) else 18)  # a busy machine makes some of them late


@pytest.mark.parametrize("fault", ["sleep150", "sleep400", "spin", "native", "crash", "stop"])
def test_whatever_the_model_does_no_answer_is_late_and_the_model_is_back_within_a_second(
    running: RunningPath, fault: str
) -> None:
    assert running.score() is not None
    running.fail(fault)
    during = ask_steadily(running, 1.5)
    assert not [outcome for _, outcome, _ in during if outcome is True]
    mended = time.monotonic()
    running.mend()
    check_back(running, mended, ask_steadily(running, 1.0 + BACK_S * min(10.0, slowness())))
    assert running.counters.get("breaker_open") == 0
    assert eventually(lambda: len(running.pids) == 2)


def test_a_model_that_sleeps_for_40_ms_misses_a_shorter_deadline_and_is_not_killed(running: RunningPath) -> None:
    pids = running.pids
    running.fail("sleep40")
    took: list[float] = []
    while not took or (min(took) >= 0.02 and len(took) < 10):  # a busy machine may be late itself
        began = time.monotonic()
        with pytest.raises(TooLate):
            running.score(deadline_ms=10)
        took.append(time.monotonic() - began)
        assert eventually(lambda: running.path.expected_s() < 0.001)
    assert min(took) < 0.02
    running.mend()
    check_back(running, time.monotonic(), ask_steadily(running, 1.0 + BACK_S * min(10.0, slowness())))
    assert running.pids == pids


@pytest.mark.parametrize("signalled", [signal.SIGSEGV, signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_a_signal_takes_is_replaced_while_the_spare_answers(
    running: RunningPath, signalled: signal.Signals
) -> None:
    first, spare = running.pids
    os.kill(first, signalled)
    outcomes = ask_steadily(running, 1.0)
    answered = [outcome for _, outcome, _ in outcomes].count(True)
    # What is on its way until it shows is lost, and what a busy machine makes late.
    assert answered >= (0.5 if is_busy(running) else 0.8) * len(outcomes)
    assert eventually(lambda: len(running.pids) == 2)
    assert running.pids[0] == spare
    assert eventually(lambda: not alive(first))


def test_a_spare_that_is_stopped_is_replaced_though_nobody_asks_it(running: RunningPath) -> None:
    spare = running.pids[1]
    os.kill(spare, signal.SIGSTOP)
    assert eventually(lambda: len(running.pids) == 2 and spare not in running.pids)
    assert running.counters.get("replaced_stopped") == 1
    assert eventually(lambda: not alive(spare))


def test_a_process_that_leaks_is_replaced_without_a_failed_request(tmp_path: Path) -> None:
    with running_path(tmp_path, grows_bytes=60 << 20) as running:
        pids = running.pids
        running.fail("leak")
        outcomes = ask_steadily(running, 2.0, rate=100, deadline_ms=5000)
        running.mend()
        assert eventually(lambda: running.counters.get("replaced_memory") >= 1 and pids[0] not in running.pids)
        ended = [outcome for _, outcome, _ in outcomes]
        assert not {WorkerLost, ModelCallError, False} & {*ended}
        assert ended.count(True) >= 0.9 * len(ended)  # a busy machine may keep both processes from running for a moment
        assert eventually(lambda: not alive(pids[0]))
