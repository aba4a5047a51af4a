"""The nights of the windows sample as a process of its own builds them, to the end or until it is killed."""

import os
import signal
from typing import Any

from windows_sample import VIEW, days_after

from forecache.base.settings import load_settings
from forecache.base.steps import lake_step
from forecache.lake.features import build_view

NIGHTS = [days_after(number) for number in (2, 4, 5)]


def build_until(spark: Any, home: str, step: str = "", count: int = 1) -> int:
    """Build them, and die at a step when it comes for the `count`th time, "": at none; rows written."""
    left = count

    def die(name: str) -> None:
        nonlocal left
        left -= name == step
        if name == step and not left:
            os.kill(os.getpid(), signal.SIGKILL)

    lake_step.on_step = die
    return build_view(load_settings(home=home, spark_master="local[2]"), VIEW, NIGHTS).rows
