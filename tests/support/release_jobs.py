"""What processes of their own do to releases in tests of kills and of writers at once."""

import json
import os
import signal
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from release_support import make_release, move_state
from rollout_support import begin

from forecache.base.errors import ConflictError, NotFoundError
from forecache.base.folders import LocalFolder
from forecache.base.settings import load_settings
from forecache.base.steps import release_step
from forecache.operations.release import roll_back_release
from forecache.plugins.rollouts.controller import advance_rollout
from forecache.realtime.release.folder import open_releases
from forecache.realtime.release.lake_state import make_current, roll_back
from forecache.realtime.release.replicas import pull_releases


def release_until(home: Path, step: str) -> None:
    """Make a second release and die at a step of it."""
    _die_at(step)
    make_release(load_settings(home=home), version=2)


def move_until(home: Path, number: int, step: str) -> None:
    """Go back to release 1, or make another one current, and die at a step of it."""
    _die_at(step)
    move_state(
        load_settings(home=home),
        "ranking",
        lambda state: roll_back(state, 1) if number == 1 else make_current(state, number, "ranking"),
    )


def pull_until(home: Path, remote: str, step: str) -> None:
    """Pull what a remote has, and die at a step of it."""
    _die_at(step)
    pull_releases(open_releases(load_settings(home=home), "ranking"), LocalFolder(Path(remote)))


def release_often(home: Path, first: int, times: int) -> None:
    """Make releases of the model versions from `first` on."""
    for version in range(first, first + times):
        make_release(load_settings(home=home), version=version)


def _die_at(step: str) -> None:
    def die(name: str) -> None:
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    release_step.on_step = die


def release_at_once(home: Path, lake: dict[str, Any], barrier: Any, first: int, times: int) -> None:
    """Release, roll back and begin rollouts beside another installation; the file `numbers` has what was released."""
    settings, numbers = load_settings(home=home, **lake), []
    barrier.wait(120)
    for version in range(first, first + times):
        with suppress(ConflictError):  # another rollback has just marked it
            numbers.append(make_release(settings, version=version, current=version % 2 == 0).number)
        with suppress(ConflictError, NotFoundError):
            roll_back_release(settings, "ranking") if version % 3 == 0 else begin(settings)
    (home / "numbers").write_text(json.dumps(numbers))


def step_at_once(home: Path, lake: dict[str, Any], barrier: Any, at: str) -> None:
    """Look at a rollout, and finish it by hand, beside another installation."""
    settings = load_settings(home=home, **lake)
    barrier.wait(120)
    advance_rollout(settings, "ranking", at=datetime.fromisoformat(at))


def roll_back_at_once(home: Path, lake: dict[str, Any], barrier: Any) -> None:
    """Roll back beside another installation."""
    settings = load_settings(home=home, **lake)
    barrier.wait(120)
    roll_back_release(settings, "ranking")
