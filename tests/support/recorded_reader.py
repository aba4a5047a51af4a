"""Runs a reader that records which functions of Forecache each of its threads calls, after it has been opened.

python recorded_reader.py FILE PYTHON -c SCRIPT ARGUMENTS: run the script here. After each change of what is served,
FILE holds the modules and names of the functions that the thread called which answers requests, of those that other
threads called, and the CPU seconds of each action that a thread had run on the one that answers.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from forecache.serve.reader.http.app import ReaderApp
from forecache.serve.reader.versions.follow import Watcher

_answering: set[str] = set()
_others: set[str] = set()
_actions_s: list[float] = []


def _recorder(found: set[str]) -> Callable[[FrameType, str, Any], None]:
    def record(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and "/forecache/" in code.co_filename:
            found.add(f"{Path(code.co_filename).stem}.{code.co_name}")

    return record


def record_calls(file: Path) -> None:
    """Have each reader that is opened in this process or its forks record its calls."""
    open_app, run_on_loop = ReaderApp.open, Watcher.run_on_loop

    def open_recorded(app: ReaderApp, loop: Any) -> None:
        threading.setprofile(_recorder(_others))
        open_app(app, loop)
        sys.setprofile(_recorder(_answering))

    def run_recorded(watcher: Watcher, action: Callable[[], None]) -> None:
        def act() -> None:
            before = time.thread_time()
            try:
                action()
            finally:
                _actions_s.append(time.thread_time() - before)

        run_on_loop(watcher, act)
        found = {"answering": sorted(_answering.copy()), "others": sorted(_others.copy()), "actions_s": _actions_s}
        unfinished = file.with_suffix(".new")
        unfinished.write_text(json.dumps(found))
        os.replace(unfinished, file)

    ReaderApp.open, Watcher.run_on_loop = open_recorded, run_recorded  # type: ignore[method-assign]


if __name__ == "__main__":
    _, target, _, _, script, *rest = sys.argv
    record_calls(Path(target))
    sys.argv = ["-c", *rest]
    exec(compile(script, "<reader>", "exec"), {"__name__": "__main__"})
