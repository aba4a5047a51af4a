"""Model processes that sleep, spin, crash, are stopped, or leak: no answer is late, and the model soon comes back."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import faulty_scorer
import numpy as np
import psutil
import pytest
from pool_support import (
    SUPPORT,
    TESTS,
    RunningPath,
    alive,
    eventually,
    model_processes,
    named_memory,
    num_open,
    running_path,
    slowness,
)

from forecache.errors import UnavailableError
from forecache.realtime.answer.model_path import Failed, NoScores, Refused, TooLate, WorkerLost
from forecache.settings import PROJECT_ROOT

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
    """Open-loop requests: (when it was sent, how it ended, seconds it took) of each.

    None is later than its deadline, but for the longest time for which other work of this machine keeps the loop.
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
        began, tasks, gathered = time.monotonic(), [], None
        while gathered is None or not gathered.done():
            if time.monotonic() < began + seconds:
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
    assert all(outcome in (True, TooLate, WorkerLost, Refused, Failed) or issubclass(outcome, TooLate)
               for _, outcome, _ in outcomes if outcome is not True)  # fmt: skip
    first = min(sent + took for sent, outcome, took in outcomes if outcome is True and sent > mended)
    assert first - mended < BACK_S * slowness() + 4 * running.lag_s
    last = [outcome for _, outcome, _ in sorted(outcomes, key=lambda each: each[0])[-20:]]
    assert last.count(True) >= (10 if is_busy(running) else 18)  # a busy machine makes some of them late


def test_scores_come_back_equal_and_one_process_is_kept_as_a_spare(running: RunningPath) -> None:
    for rows in (1, 7, 50):
        assert np.array_equal(running.score(rows), faulty_scorer.found(rows).views["view"].sum(axis=1))
    assert len(running.pids) == 2
    assert running.counters.get("batched_requests") == 3


def test_many_requests_at_once_are_scored_in_batches_with_the_same_bits(running: RunningPath) -> None:
    path = running.path

    async def together() -> list[np.ndarray]:
        until = time.monotonic() + 30
        asked = [(faulty_scorer.request(7), faulty_scorer.found(7, first)) for first in range(500)]
        return await asyncio.gather(*(path.score(request, found, until) for request, found in asked))

    for first, scores in enumerate(running.run(together())):
        assert np.array_equal(scores, faulty_scorer.found(7, first).views["view"].sum(axis=1))
    counted = sum(running.counters.get(f"batches_{bound}") for bound in (1, 2, 4, 8, 16, 32, "more"))
    assert counted < running.counters.get("batched_requests") == 500


def test_a_model_that_looks_at_all_its_rows_gets_one_request_a_call(tmp_path: Path) -> None:
    (tmp_path / "listwise").touch()
    with running_path(tmp_path) as running:
        path = running.path

        async def together() -> list[np.ndarray]:
            until = time.monotonic() + 30
            asked = [(faulty_scorer.request(7), faulty_scorer.found(7, first)) for first in range(100)]
            return await asyncio.gather(*(path.score(request, found, until) for request, found in asked))

        for first, scores in enumerate(running.run(together())):
            alone = faulty_scorer.found(7, first).views["view"].sum(axis=1)
            assert np.array_equal(scores, alone - alone.max())
        assert running.counters.get("batches_1") == 100


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
    check_back(running, mended, ask_steadily(running, 1.0 + BACK_S * slowness()))
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
    check_back(running, time.monotonic(), ask_steadily(running, 1.0 + BACK_S * slowness()))
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


def test_a_request_that_crashes_its_process_is_not_tried_again_and_others_are(running: RunningPath) -> None:
    path = running.path

    async def mixed() -> list[object]:
        until = time.monotonic() + 10
        faults = ["sleep20", "crash", "", "", ""]
        asked = [path.score(faulty_scorer.request(fault=fault), faulty_scorer.found(), until) for fault in faults]
        return await asyncio.gather(*asked, return_exceptions=True)

    slow, poison, *others = running.run(mixed())
    assert isinstance(poison, WorkerLost)
    assert all(np.array_equal(scores, EXPECTED) for scores in (slow, *others))
    assert running.counters.get("replaced_crashed") == 1
    assert running.counters.get("requeued") >= 1


def test_a_process_that_leaks_is_replaced_without_a_failed_request(tmp_path: Path) -> None:
    with running_path(tmp_path, grows_bytes=60 << 20) as running:
        pids = running.pids
        running.fail("leak")
        outcomes = ask_steadily(running, 2.0, rate=100, deadline_ms=5000)
        running.mend()
        assert eventually(lambda: running.counters.get("replaced_memory") >= 1 and pids[0] not in running.pids)
        ended = [outcome for _, outcome, _ in outcomes]
        assert not {WorkerLost, Failed, False} & {*ended}
        assert ended.count(True) >= 0.9 * len(ended)  # a busy machine may keep both processes from running for a moment
        assert eventually(lambda: not alive(pids[0]))


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("transform", "KeyError: 'no such field'"),
        ("predict", "ValueError: the model is broken"),
        ("shape", "array of shape \\[50, 2\\] for 50 rows"),
    ],
)
def test_an_error_of_the_model_is_told_and_keeps_it_from_nobody_else(
    running: RunningPath, fault: str, says: str
) -> None:
    pids = running.pids
    running.fail(fault)
    for _ in range(8):
        with pytest.raises(Failed, match=says):
            running.score()
    running.mend()
    assert np.array_equal(running.score(), EXPECTED)
    assert running.pids == pids


def test_one_bad_request_of_a_batch_fails_alone(running: RunningPath) -> None:
    path = running.path

    async def mixed() -> list[object]:
        until = time.monotonic() + 10
        faults = ["sleep30", "", "transform", ""]
        asked = [path.score(faulty_scorer.request(fault=fault), faulty_scorer.found(), until) for fault in faults]
        return await asyncio.gather(*asked, return_exceptions=True)

    first, second, failed, last = running.run(mixed())
    assert isinstance(failed, Failed)
    assert all(np.array_equal(scores, EXPECTED) for scores in (first, second, last))


def test_not_a_number_is_passed_on_for_the_ladder_to_judge(running: RunningPath) -> None:
    running.fail("nan")
    assert np.isnan(running.score()).all()


def test_a_model_that_cannot_be_loaded_is_told_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "refuse").touch()
    before = model_processes()
    with pytest.raises(UnavailableError, match="the model file is damaged"), running_path(tmp_path):
        pass
    assert eventually(lambda: model_processes() == before)


def test_a_model_that_does_not_become_warm_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "slow").touch()
    before = model_processes()
    with pytest.raises(UnavailableError, match="warm (within 1 s|after)"), running_path(tmp_path, start_s=1.0):
        pass
    assert eventually(lambda: model_processes() == before)


def test_replacing_processes_leaves_no_process_descriptor_or_memory(running: RunningPath) -> None:
    assert running.score() is not None
    before = num_open()
    for _ in range(5):
        pids = running.pids
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert eventually(lambda gone=pids: len(running.pids) == 2 and not {*gone} & {*running.pids})
    assert running.score() is not None
    assert eventually(lambda: num_open() <= before)
    assert not [child for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE]


def test_closing_answers_what_is_under_way_and_ends_the_processes(tmp_path: Path) -> None:
    before, opened = model_processes(), num_open()
    with running_path(tmp_path) as running:
        path = running.path
        assert {*running.pids} <= model_processes()
        slow = path.score(faulty_scorer.request(fault="sleep200"), faulty_scorer.found(), time.monotonic() + 5)
        answer = asyncio.run_coroutine_threadsafe(slow, running.loop)
        assert eventually(lambda: any(worker.calls for worker in path.pool.workers))
        path.close()
        assert np.array_equal(answer.result(60), EXPECTED)
    assert model_processes() == before
    assert eventually(lambda: num_open() <= opened)


def test_a_hung_process_does_not_keep_a_path_from_closing(tmp_path: Path) -> None:
    before = model_processes()
    with running_path(tmp_path) as running:
        running.fail("native")
        with pytest.raises(TooLate):
            running.score(deadline_ms=30)
        began = time.monotonic()
        running.path.close()
        assert time.monotonic() - began < 30  # it hangs for an hour
    assert model_processes() == before


READER = """
import sys, time
from pathlib import Path
from pool_support import running_path
with running_path(Path(sys.argv[1])) as running:
    print(*running.pids, flush=True)
    fault = sys.argv[2]
    if fault:
        running.fail(fault)
        try:
            running.score(deadline_ms=20)
        except Exception:
            pass
    print("asked", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("fault", ["", "spin", "native", "stop"])
@pytest.mark.parametrize("signalled", [signal.SIGKILL, signal.SIGSEGV])
def test_a_reader_that_is_killed_leaves_no_model_process_whatever_that_does(
    tmp_path: Path, fault: str, signalled: signal.Signals
) -> None:
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(tmp_path), fault], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert reader.stdout is not None
    pids = [int(pid) for pid in reader.stdout.readline().split()]
    assert len(pids) == 2
    assert reader.stdout.readline() == "asked\n"
    assert all(map(psutil.pid_exists, pids))
    shared = named_memory([reader.pid, *pids])
    reader.send_signal(signalled)
    reader.wait(60)
    reader.stdout.close()
    assert eventually(lambda: not any(map(alive, pids)))
    assert not [path for path in shared if os.path.exists(path)]
    assert not model_processes()
