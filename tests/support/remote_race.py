"""Publishers of two homes that push to one remote, in processes that stop or die at a step of the push."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

from store_tables import OPEN_RULES, churn

from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings, load_settings
from forecache.base.steps import push_step
from forecache.serve.store import publish

RULES = replace(OPEN_RULES, keep=0)
"""Each publish retires every version before it, so that a wrong deletion shows at once."""


def publish_at(home: Path, remote: str, options: dict[str, str], step: str, stop: str = "", dies: bool = False) -> None:
    """Publish what the home's lake has; write "published" or the error's name into HOME/outcome.

    Args:
        stop: A folder: at the step the file `reached` is written there, and the process waits for the file `go`.
        dies: Whether it is killed at the step instead.
    """

    def reach(name: str) -> None:
        if name != step:
            return
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        if stop:
            Path(stop, f"reached-{home.name}").touch()
            while not Path(stop, "go").exists():
                time.sleep(0.005)

    push_step.on_step = reach
    try:
        publish(settings_of(home, remote, options), churn(rules=RULES), full=True)
    except ForecacheError as error:
        (home / "outcome").write_text(type(error).__name__)
    else:
        (home / "outcome").write_text("published")


def settings_of(home: Path, remote: str, options: dict[str, str]) -> Settings:
    return load_settings(home=home, store_remote=remote, storage_options=options)
