"""Periodic threads, growing pauses, and child processes that end with their parent."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest
from waiting import eventually

from forecache.base.settings import PROJECT_ROOT, load_settings
from forecache.cli.commands import reader
from forecache.kit.process import child as sidecar
from forecache.kit.process.child import end_process, is_readable, is_stopped, kill_group, read_own_memory
from forecache.kit.process.periodic import Backoff, PeriodicThread, RetryPauses
from forecache.kit.process.wakes import Wake

WAKE = Wake("test", "test", "The test", 0.001)


def test_pauses_double_up_to_the_longest() -> None:
    assert [Backoff(0.5, 3.0).pause_s(failures) for failures in (1, 2, 3, 4, 5000)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_failed_thing_waits_alone_and_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pauses = RetryPauses(Backoff(1.0, 4.0))
    for pause_s in (1.0, 2.0, 4.0, 4.0):
        pauses.note_failure("a")
        now[0] += pause_s - 0.1
        assert pauses.is_waiting("a")
        now[0] += 0.2
        assert not pauses.is_waiting("a")
    assert not pauses.is_waiting("b")
    pauses.note_success("a")
    pauses.note_failure("a")
    now[0] += 1.1
    assert not pauses.is_waiting("a")


def test_a_fault_is_logged_once_until_it_changes_or_the_work_succeeds(caplog: pytest.LogCaptureFixture) -> None:
    outcomes = iter(["a", "a", "a", "b", "", "b", ""])
    done = threading.Event()

    def work() -> None:
        outcome = next(outcomes, None)
        if outcome is None:
            done.set()
        elif outcome:
            raise OSError(outcome)

    with caplog.at_level(logging.ERROR, logger="forecache"), PeriodicThread(WAKE, work) as thread:
        assert done.wait(60)
    assert [record.getMessage()[-1] for record in caplog.records] == ["a", "b", "b"]
    assert (thread.failure, thread.failures) == ("", 0)


def test_failures_in_a_row_pause_longer_and_a_success_forgets_them() -> None:
    pauses: list[int] = []

    class Recorded(Backoff):
        def pause_s(self, failures: int) -> float:
            pauses.append(failures)
            return 0.0

    outcomes = iter([False, False, True, False, False])
    done = threading.Event()

    def work() -> None:
        works = next(outcomes, None)
        if works is None:
            done.set()
        elif not works:
            raise OSError("away")

    with PeriodicThread(WAKE, work, backoff=Recorded(1.0), report=lambda error: None):
        assert done.wait(60)
    assert pauses == [1, 2, 1, 2]


def test_closing_waits_for_the_running_call_and_makes_no_other() -> None:
    calls, began, go = [], threading.Event(), threading.Event()

    def work() -> None:
        calls.append(0)
        began.set()
        go.wait(60)

    thread = PeriodicThread(WAKE, work, at_once=True).start()
    assert began.wait(60)
    closing = threading.Thread(target=thread.close)
    closing.start()
    assert thread.stopping.wait(60)
    assert closing.is_alive()
    go.set()
    closing.join(60)
    assert calls == [0]


def test_closing_a_thread_that_hangs_waits_no_longer_than_allowed() -> None:
    go, began = threading.Event(), threading.Event()
    thread = PeriodicThread(WAKE, lambda: (began.set(), go.wait(60)), at_once=True, close_s=0.05).start()
    assert began.wait(60)
    thread.close()
    assert thread.stopping.is_set()
    go.set()


def test_a_process_that_ignores_sigterm_is_killed_with_its_group() -> None:
    script = "trap '' TERM; sleep 600 & echo ready; while :; do sleep 0.05; done"
    process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    family = psutil.Process(process.pid).children(recursive=True)
    end_process(process, within_s=0.2)
    assert process.returncode == -signal.SIGKILL
    assert eventually(lambda: not any(is_alive(each.pid) for each in family))


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="pidfd and /proc")
def test_a_pidfd_tells_of_the_end_and_proc_of_a_stop() -> None:
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    descriptor = os.pidfd_open(process.pid)
    try:
        assert read_own_memory(os.getpid()) > 0
        assert not is_readable(descriptor)
        assert not is_stopped(process.pid)
        process.send_signal(signal.SIGSTOP)
        assert eventually(lambda: is_stopped(process.pid))
        kill_group(process.pid, descriptor)
        assert is_readable(descriptor, within_s=60)
    finally:
        os.close(descriptor)
        process.wait()
    assert read_own_memory(process.pid) == 0
    assert not is_stopped(process.pid)


CHILD = """
import sys
from pathlib import Path
from forecache.kit.process.child import stop_event
import os
stop = stop_event(until_input_ends=True)
with open(sys.argv[1], "a") as file:
    print(os.getpid(), file=file)
stop.wait()
"""
PARENT = """
import subprocess, sys, time
from forecache.kit.process import child as sidecar
from forecache.kit.process.periodic import Backoff
sidecar._BACKOFF = Backoff(0.05, 60.0)
popen = subprocess.Popen
subprocess.Popen = lambda command, **rest: popen([sys.executable, "-c", sys.argv[2], sys.argv[1]], **rest)
with sidecar.run_sidecar(["x"], what="The child", is_needed=lambda: True):
    print("ready", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def parent(tmp_path: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", PARENT, str(tmp_path / "pids"), CHILD]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def children(folder: Path) -> list[int]:
    file = folder / "pids"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def test_a_sidecar_that_is_killed_is_started_again_and_ends_with_the_block(
    parent: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    for number in (1, 2, 3):
        assert eventually(lambda number=number: len(children(tmp_path)) == number)
        if number < 3:
            os.kill(children(tmp_path)[-1], signal.SIGKILL)
    _, logged = parent.communicate(b"\n", timeout=60)
    assert logged.count(b"The child ended with the exit code -9.") == 1, "one line for a fault"
    assert eventually(lambda: not any(is_alive(pid) for pid in children(tmp_path)))


def test_a_sidecar_ends_when_its_parent_is_killed(parent: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    assert eventually(lambda: len(children(tmp_path)) == 1)
    parent.kill()
    parent.communicate(timeout=60)
    assert eventually(lambda: not is_alive(children(tmp_path)[0]))


@pytest.mark.parametrize(("last_s", "takes_s", "is_finished"), [(0.5, 300, False), (60.0, 2, True)])
def test_a_sidecar_has_the_given_time_to_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last_s: float, takes_s: int, is_finished: bool
) -> None:
    script = (
        "import sys, time; open(sys.argv[1], 'w').close(); sys.stdin.read(); "
        f"time.sleep({takes_s}); open(sys.argv[2], 'w')"
    )
    popen, started, finished = subprocess.Popen, tmp_path / "started", tmp_path / "finished"
    command = [sys.executable, "-c", script, str(started), str(finished)]
    monkeypatch.setattr(subprocess, "Popen", lambda _, **more: popen(command, **more))
    with sidecar.run_sidecar(["x"], what="The child", is_needed=lambda: True, last_s=last_s):
        assert eventually(started.exists)
    assert finished.exists() == is_finished


@pytest.mark.parametrize(("lake", "last_s"), [("", 5.0), ("s3://cloud/lake", 60.0)])
def test_a_committer_has_longer_to_commit_the_rest_if_the_disk_may_go_with_the_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lake: str, last_s: float
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(reader, "run_sidecar", lambda *_, **how: given.update(how) or nullcontext())
    with reader.run_committer_sidecar(load_settings(home=tmp_path, lake=lake)):
        assert given["last_s"] == last_s


def test_a_sidecar_that_is_not_needed_yet_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = threading.Event()

    def is_needed() -> bool:
        looks.set()
        return False

    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("it was started"))
    with sidecar.run_sidecar(["x"], what="The child", is_needed=is_needed):
        assert looks.wait(60)
