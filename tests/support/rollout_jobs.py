"""What processes of their own do to rollouts in tests of kills and of controllers at once."""

import os
import signal
from datetime import datetime
from pathlib import Path

from forecache.base.errors import ConflictError
from forecache.base.settings import load_settings
from forecache.base.steps import release_step, rollout_step
from forecache.plugins.rollouts.controller import advance_rollout


def look_until(home: Path, step: str, at: str) -> None:
    """Look once, and die at a step of it."""

    def die(name: str) -> None:
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    rollout_step.on_step = release_step.on_step = die
    advance_rollout(load_settings(home=home), "ranking", at=datetime.fromisoformat(at))


def look_often(home: Path, times: int, at: str) -> None:
    """Look again and again."""
    for _ in range(times):
        try:
            advance_rollout(load_settings(home=home), "ranking", at=datetime.fromisoformat(at))
        except ConflictError:
            continue
