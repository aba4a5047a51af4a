"""The first start of a project: several processes open Dagster's new instance at the same time."""

import os
import subprocess
import sys
from pathlib import Path

_PROCESSES, _ROUNDS = 3, 2

_OPEN_AT_ONCE = """
import os, sys
from pathlib import Path
import dagster
from forecache.base.settings import load_settings
from resources.instance import runner_instance

def opens(home, waits, other_end):
    os.close(other_end)
    os.read(waits, 1)  # until all have been made
    with runner_instance(load_settings(home=home)) as instance:
        instance.get_runs(limit=1)

def at_once(home, processes):
    waits, starts = os.pipe()
    children = []
    for _ in range(processes):
        child = os.fork()
        if not child:
            try:
                opens(home, waits, starts)
            except BaseException as error:
                print(f"{type(error).__name__}: {str(error)[:100]}", flush=True)
            os._exit(0)
        children.append(child)
    os.close(starts)
    for child in children:
        os.waitpid(child, 0)
    os.close(waits)

with runner_instance(load_settings(home=Path(sys.argv[1]) / "warm")):
    pass  # so that all modules are there before the forks
for round in range(int(sys.argv[3])):
    at_once(Path(sys.argv[1]) / str(round), int(sys.argv[2]))
"""


def test_processes_that_start_a_project_at_once_all_find_dagster_ready(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _OPEN_AT_ONCE, str(tmp_path), str(_PROCESSES), str(_ROUNDS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=os.environ)
    assert done.stdout == ""
