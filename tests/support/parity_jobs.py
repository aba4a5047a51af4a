"""The comparison of a day's answers, as a process of its own makes it until it is killed."""

import os
import signal
from datetime import date
from pathlib import Path
from typing import Any

from forecache.base.errors import ForecacheError
from forecache.base.settings import load_settings
from forecache.base.steps import lake_step
from forecache.plugins.parity.replay import check_parity


def compare_until(home: Path, day: date, step: str, told: Any = None) -> None:
    """Compare, and die at a step, "": at none; tells the name of the error that it ends with, or ""."""

    def at(name: str) -> None:
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    lake_step.on_step = at
    try:
        check_parity(load_settings(home=home), "ranking", day, processes=1)
    except ForecacheError as error:
        told.send(type(error).__name__)
    else:
        if told is not None:
            told.send("")
