"""Steps at which a process of a test dies, as if somebody had killed it."""

import os
import signal
from collections.abc import Callable


def dies_at(step: str, times: int = 1) -> Callable[[str], None]:
    """What a step calls with its name: it kills this process when `step` comes for the `times`th time."""
    left = times

    def die(name: str) -> None:
        nonlocal left
        left -= name == step
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    return die
