"""What processes of their own do to streams in tests of kills and of two engines at once."""

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stream_sample import EmptyNight, a_stream
from waiting import beside

from forecache.settings import Settings, load_settings
from forecache.steps import stream_step
from forecache.stream.arrow.engine import ArrowEngine
from forecache.stream.step import step as steps
from forecache.stream_state import StreamState, read_state


def stand_on_an_empty_night() -> None:
    """Have the views of this process stand on a night that knows no key."""
    steps.ServedBases = lambda settings: lambda view: EmptyNight()  # type: ignore[assignment,misc]


def run_stream(
    home: Path, brokers: str, topic: str, declared: dict[str, Any], *, stop: threading.Event | None = None, **how: Any
) -> ArrowEngine:
    """Run the stream of payments in this process until it has caught up, or `stop` is set."""
    stand_on_an_empty_night()
    settings, stream = settings_of(home, brokers), a_stream(topic, **declared)
    engine = ArrowEngine(settings, stream, until_caught_up=stop is None, stop=stop, **how)
    engine.run()
    return engine


@contextmanager
def running(settings: Settings, topic: str, declared: Mapping[str, Any]) -> Iterator[None]:
    """The stream of payments in a thread of this process, while the block runs."""
    with beside(lambda stop: run_stream(settings.home_path, settings.kafka_brokers, topic, dict(declared), stop=stop)):
        yield


def state_of(settings: Settings) -> StreamState:
    """What the stream of payments says of itself; figures of none before it has said anything."""
    return read_state(settings.home_path, "payments") or StreamState()


def settings_of(home: Path, brokers: str) -> Settings:
    return load_settings(home=home, kafka_brokers=brokers)


def stream_until(home: Path, brokers: str, topic: str, declared: dict[str, Any], step: str) -> None:
    """Run the stream and die at a step."""

    def die(name: str) -> None:
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    stream_step.on_step = die
    run_stream(home, brokers, topic, declared)


def stream_on(home: Path, brokers: str, topic: str, declared: dict[str, Any]) -> None:
    """Run the stream until the process is killed."""
    run_stream(home, brokers, topic, declared, stop=threading.Event())
