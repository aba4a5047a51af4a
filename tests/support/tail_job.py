"""A tailer that kills itself at a step, as a process of its own runs it."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

from forecache.base.settings import load_settings
from forecache.base.steps import tail_step
from forecache.stream.tail import follower
from forecache.stream.tail.tailer import run_tailer


def tail_until(home: Path, step: str, nth: int, told: Any) -> None:
    """Follow the streams of a home, and die at a step when it comes for the `nth` time, "": at none."""
    seen = 0

    def kill(name: str) -> None:
        nonlocal seen
        seen += name == step
        if seen == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    if step:
        tail_step.on_step = kill
    follower.RISE_S = 0.0
    told.send("started")
    run_tailer(load_settings(home=home, stream_verify_s=0.1), stop=threading.Event())
