"""What processes of their own do to releases in tests of kills and of writers at once."""

import os
import signal
from pathlib import Path

from release_support import make_release

from forecache.base.folders import LocalFolder
from forecache.base.settings import load_settings
from forecache.base.steps import release_step
from forecache.realtime.release.folder import open_releases
from forecache.realtime.release.replicas import pull_releases
from forecache.realtime.release.write import move_pointer


def release_until(home: Path, step: str) -> None:
    """Make a second release and die at a step of it."""
    _die_at(step)
    make_release(load_settings(home=home), version=2)


def move_until(home: Path, step: str) -> None:
    """Go back to the first release and die at a step of it."""
    _die_at(step)
    move_pointer(open_releases(load_settings(home=home), "ranking"), 1, leave=True)


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
