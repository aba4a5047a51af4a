"""Model processes that cannot start, are replaced, or whose reader ends or is killed: nothing is left of them."""

import asyncio
import logging
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
    model_processes,
    named_memory,
    num_open,
    running_path,
)
from waiting import eventually

from forecache.base.errors import UnavailableError
from forecache.base.settings import PROJECT_ROOT
from forecache.realtime.request.request_answer import TooLate
from forecache.realtime.workers import model_process

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


@pytest.mark.slow
def test_a_template_whose_start_takes_longer_than_its_limit_comes_back_and_the_model_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(model_process, "LEAST_START_S", 1.0)
    monkeypatch.setattr(model_process, "START_TIMES", 1.0)
    with running_path(tmp_path) as running:
        first, spare = running.pids
        os.kill(first, signal.SIGKILL)  # its replacement is a copy, which is warm in a fraction of the template's time
        assert eventually(lambda: len(running.pids) == 2 and first not in running.pids)
        made = running.path.pool._staff._template
        monkeypatch.setenv(faulty_scorer.IMPORT_S, str(2 * made.limit_s))
        with caplog.at_level(logging.WARNING, logger="forecache.realtime"):
            os.kill(psutil.Process(spare).ppid(), signal.SIGKILL)
            assert eventually(lambda: running.counters.get("template_failures") >= 2)
            assert eventually(lambda: len(running.pids) == 2, 300)
        assert np.array_equal(running.score(), EXPECTED)
        assert running.counters.get("templates_started") == running.counters.get("template_failures") + 1
    logged = [record.getMessage() for record in caplog.records]
    for reason in ("was killed by signal 9", "had not imported what the model needs in time, within"):
        assert len([each for each in logged if "The template" in each and reason in each]) == 1, logged
    assert any("is ready after" in each for each in logged)


def test_a_template_that_ends_at_once_is_reported_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os, sys\nif 'template' in sys.argv: os._exit(3)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(SUPPORT), str(PROJECT_ROOT)]))
    with pytest.raises(UnavailableError, match="the template that makes it ended"), running_path(tmp_path):
        pass


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
    pids = [*{*pids, *model_processes()}]  # those that have replaced one that hangs are to go, too
    assert any(map(alive, pids))
    shared = named_memory([reader.pid, *pids])
    reader.send_signal(signalled)
    reader.wait(60)
    reader.stdout.close()
    assert eventually(lambda: not any(map(alive, pids)))
    assert eventually(lambda: not model_processes())  # one that was about to start, too
    assert not [path for path in shared if os.path.exists(path)]
