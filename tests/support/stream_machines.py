"""What processes do to the stream of payments as machines of their own: with an empty disk, over a lake in a bucket."""

import os
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

from dying import dies_at
from stream_jobs import stand_on_an_empty_night
from stream_sample import a_stream
from stream_shards import SHARDED, keyed_topic

from forecache.base import steps
from forecache.base.settings import load_settings
from forecache.kit.process import identity
from forecache.stream.engine import arrow_engine
from forecache.stream.engine.arrow_engine import ArrowEngine
from forecache.stream.engine.restore_state import tile_saver
from forecache.stream.engine.sharded_engine import ShardedEngine


def run_on_machine(
    home: Path, given: dict[str, Any], topic: str, *, stop: threading.Event | None = None, is_standby: bool = False
) -> ArrowEngine:
    """Run the stream on a machine until it has caught up, or `stop` is set."""
    settings = load_settings(home=home, **given)
    stand_on_an_empty_night(settings)
    make_stop = threading.Event if stop is None else lambda: stop
    engine = ArrowEngine(
        settings, a_stream(topic), until_caught_up=stop is None, is_standby=is_standby, make_stop=make_stop
    )
    engine.run()
    return engine


def save_tiles_each_commit() -> None:
    """Have the engines of this process write the file of tiles after each commit."""
    arrow_engine.tile_saver = partial(tile_saver, commits=1)  # type: ignore[assignment]


def copy_until(home: Path, given: dict[str, Any], topic: str, step: str) -> None:
    """Run the stream until it has caught up, and die at a step of copying its files."""
    steps.copy_step.on_step = dies_at(step)
    save_tiles_each_commit()
    run_on_machine(home, given, topic)


def stand_by(home: Path, given: dict[str, Any], topic: str, pause_at: tuple[str, str] = ("", "")) -> None:
    """Run the stream on another machine than all other processes, or wait to; the file `ended` has the error.

    At the step with the name `pause_at`, of a table's commit after the first one, the process stands still.
    """
    identity.machine_id = lambda: str(home)
    which, step = pause_at

    def pause(name: str) -> None:
        if name == step and (home / "pause").exists():
            (home / "pause").unlink()
            (home / "paused").touch()
            os.kill(os.getpid(), signal.SIGSTOP)

    if which:
        getattr(steps, which).on_step = pause
    try:
        run_on_machine(home, given, topic, stop=threading.Event(), is_standby=True)
    except Exception as error:
        (home / "ended").write_text(f"{type(error).__name__}: {error}")
        raise


def run_shards(
    home: Path, given: dict[str, Any], topic: str, at: tuple[str, str] = ("", ""), how: int = signal.SIGKILL
) -> None:
    """Run the stream of payments beside other processes, on another machine than all of them.

    Once there is the file `now` in the home, the process sends itself the signal `how` at a step, and the file `there`
    says so. The file `ended` has the error that it ended with.
    """
    identity.machine_id = lambda: str(home)
    which, step = at

    def act(name: str) -> None:
        if name == step and (home / "now").exists():
            (home / "now").unlink()
            (home / "there").touch()
            os.kill(os.getpid(), how)

    if which:
        getattr(steps, which).on_step = act
    settings = load_settings(home=home, **given)
    stand_on_an_empty_night(settings)
    try:
        ShardedEngine(settings, a_stream(keyed_topic(topic), **SHARDED)).run()
    except Exception as error:
        (home / "ended").write_text(f"{type(error).__name__}: {error}")
        raise
