"""What homes in processes of their own do to a claim in tests of kills and of several at once."""

import os
import signal
from pathlib import Path
from typing import Any

from forecache.base.errors import ConflictError
from forecache.base.settings import load_settings
from forecache.base.steps import claim_step
from forecache.plugins.rollouts.ownership import claim_ownership, take_over
from forecache.realtime.release.folder import open_releases


def own_together(home: Path, lake: dict[str, Any], barrier: Any) -> None:
    """Claim a model at the same instant as other homes; the file `result` in the home says what came of it."""

    def wait(step: str) -> None:
        if step == "identified":
            barrier.wait(120)

    claim_step.on_step = wait
    settings = load_settings(home=home, **lake)
    try:
        claim_ownership(settings, open_releases(settings, "ranking"))
        result = "claimed"
    except ConflictError as error:
        result = str(error)
    (home / "result").write_text(result)


def own_until(home: Path, lake: dict[str, Any], step: str) -> None:
    """Claim a model, and die at a step of it."""
    _die_at(step)
    settings = load_settings(home=home, **lake)
    claim_ownership(settings, open_releases(settings, "ranking"))


def take_over_until(home: Path, lake: dict[str, Any], step: str) -> None:
    """Take a model over, and die at a step of it."""
    _die_at(step)
    settings = load_settings(home=home, **lake)
    take_over(settings, open_releases(settings, "ranking"))


def _die_at(step: str) -> None:
    def die(name: str) -> None:
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    claim_step.on_step = die
