"""Model processes score what comes together in batches, with the same bits; a bad request costs only itself."""

import asyncio
import os
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
    running_path,
)
from waiting import eventually

from forecache.base.settings import PROJECT_ROOT
from forecache.realtime.request.request_answer import ModelCallError, WorkerLost

pytestmark = pytest.mark.faults
EXPECTED = faulty_scorer.found().views["view"].sum(axis=1)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SUPPORT), str(PROJECT_ROOT)]))
    monkeypatch.setenv(TESTS, str(os.getpid()))


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunningPath]:
    with running_path(tmp_path) as path:
        yield path


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
    # On a busy machine a process that takes long to end counts as hung.
    assert eventually(lambda: any(running.counters.get(f"replaced_{cause}") for cause in ("crashed", "hung")))
    assert running.counters.get("replaced_crashed") <= 1
    assert running.counters.get("requeued") >= 1


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
        with pytest.raises(ModelCallError, match=says):
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
    assert isinstance(failed, ModelCallError)
    assert all(np.array_equal(scores, EXPECTED) for scores in (first, second, last))


def test_not_a_number_is_passed_on_for_the_fallbacks_to_judge(running: RunningPath) -> None:
    running.fail("nan")
    assert np.isnan(running.score()).all()
