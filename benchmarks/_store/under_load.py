"""A load during which another process changes what is served."""

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from _store.processes import PYTHON, BenchmarkError

_BENCHMARKS = Path(__file__).resolve().parents[1]
Found = TypeVar("Found")


def while_changing(
    module: str, arguments: Sequence[object], load: Callable[[], Found]
) -> tuple[Found, list[dict[str, Any]]]:
    """What `load` finds while a process makes its changes; and the changes, each with whether it ended under the load.

    Args:
        module: Is run with the arguments. It prints READY, waits for a line, and prints RESULT and its changes as JSON.
    """
    changer = subprocess.Popen(
        [str(PYTHON), "-m", module, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_BENCHMARKS, start_new_session=True,
    )  # fmt: skip
    assert changer.stdin is not None
    assert changer.stdout is not None
    try:
        line = changer.stdout.readline()
        while line and line.strip() != "READY":
            line = changer.stdout.readline()
        if not line:
            raise BenchmarkError(f"The process of {module} did not start; its message is above.")
        changer.stdin.write("go\n")
        changer.stdin.flush()
        found = load()
        ended = time.time()
        output, _ = changer.communicate()
    finally:
        changer.kill()
        changer.wait()
    if changer.returncode != 0:
        raise BenchmarkError(f"A change of {module} failed under load; its message is above.")
    result = next(line for line in output.splitlines() if line.startswith("RESULT "))
    changes: list[dict[str, Any]] = json.loads(result.removeprefix("RESULT "))
    for change in changes:
        change["under_load"] = change["ended"] <= ended
    return found, changes
