"""A program that runs in front ends with all its children, as told from a terminal, a script or a service manager."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from waiting import eventually

# As a shell starts what it puts into the background: SIGINT is ignored.
SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
from forecache.kit.process import child
child._INTERRUPTED_S = 0.3
sys.exit(child.run_supervised(["sh", "-c", sys.argv[1]], {"PATH": "/usr/bin:/bin"}))
"""
# One child ignores SIGINT and one has left the group.
TREE = "sleep 600 & setsid sleep 600 & wait"


def start(program: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", SCRIPT, program], text=True)


def descendants(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def sleeping(process: "subprocess.Popen[str]") -> bool:
    return [each.name() for each in descendants(process)].count("sleep") == 2


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_no_process_is_left_once_it_is_told_to_end(told: signal.Signals) -> None:
    process = start(TREE)
    assert eventually(lambda: sleeping(process))
    family = descendants(process)
    process.send_signal(told)
    assert process.wait(timeout=60) == 0
    assert not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in family)


def test_the_program_s_own_end_and_exit_code_are_passed_on() -> None:
    process = start("setsid sleep 600 & exit 7")
    assert process.wait(timeout=60) == 7
    assert process.returncode == 7


def test_the_program_is_interrupted_where_its_supervisor_is_killed(tmp_path: Path) -> None:
    mark = tmp_path / "interrupted"
    process = start(f"trap 'touch {mark}; exit' INT; touch {tmp_path}/ready; while :; do sleep 0.05; done")
    assert eventually((tmp_path / "ready").exists)
    process.kill()
    process.wait()
    assert eventually(mark.exists)
