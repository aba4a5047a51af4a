"""Publishers of two homes with one remote, in processes that stop or die at a step of the change in the remote."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

from other_machine import guard_swaps, stand_still
from store_tables import OPEN_RULES, churn

from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings, load_settings
from forecache.base.steps import push_step
from forecache.kit import lease
from forecache.serve.store import publish
from forecache.serve.store import remote as remote_files

RULES = replace(OPEN_RULES, keep=0)
"""Each publish retires every version before it, and removes it at once, so that a wrong deletion shows at once."""

TERM_S = 3.0
_LONG_S = 60.0


def publish_at(
    home: Path, remote: str, options: dict[str, str], step: str, stop: str = "", end: Literal["", "dies", "loses"] = ""
) -> None:
    """Publish what the home's lake has; write "published" or the error's name into HOME/outcome.

    While it waits for another publisher, there is the file HOME/waits.

    Args:
        stop: A folder: at the step the file `reached` is written there, and the process waits for the file `go`.
        end: It is killed at the step ("dies"), or stands still there, with a lease whose term is short ("loses").
    """

    def reach(name: str) -> None:
        if end != "loses":
            lease.TERM_S = _LONG_S  # it has the lease, which a machine that stands still is not to lose
        if name != step:
            return
        if end == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if stop:
            Path(stop, f"reached-{home.name}").touch()
            if end == "loses":
                stand_still()
            while not Path(stop, "go").exists():
                time.sleep(0.005)

    def report(message: str, _: float | None = None) -> None:
        if message.startswith("Waiting for process"):
            (home / "waits").touch()

    guard_swaps()
    push_step.on_step = reach
    lease.LEASE = replace(lease.LEASE, every_s=0.3)
    # One that stops or dies waits for no other.
    lease.TERM_S, lease.MARGIN_S = _LONG_S if step and end != "loses" else TERM_S, 0.5
    remote_files.RETIRED_S = 0.0
    try:
        publish(settings_of(home, remote, options), churn(rules=RULES), full=True, progress=report)
    except ForecacheError as error:
        (home / "outcome").write_text(type(error).__name__)
    else:
        (home / "outcome").write_text("published")


def settings_of(home: Path, remote: str, options: dict[str, str]) -> Settings:
    return load_settings(home=home, store_remote=remote, storage_options=options)
