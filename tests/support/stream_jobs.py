"""What processes of their own do to streams in tests of kills and of two engines at once."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dying import dies_at
from stream_sample import EmptyNight, a_stream
from waiting import beside

from forecache.base.settings import Settings, load_settings
from forecache.base.steps import stream_step
from forecache.stream import step as steps
from forecache.stream.engine.arrow_engine import ArrowEngine
from forecache.stream.state import StreamState, read_state
from forecache.stream.tiles.view_tiles import Bases

_ON_AN_EMPTY_NIGHT: set[Path] = set()
_ServedBases = steps.ServedStates


def stand_on_an_empty_night(settings: Settings) -> None:
    """Have the views of this home, and of no other in this process, stand on a night that knows no key."""
    _ON_AN_EMPTY_NIGHT.add(settings.home_path)
    steps.ServedStates = _bases_of  # type: ignore[assignment,misc]


def _bases_of(settings: Settings) -> Bases:
    return (lambda view: EmptyNight()) if settings.home_path in _ON_AN_EMPTY_NIGHT else _ServedBases(settings)


def run_stream(
    home: Path, brokers: str, topic: str, declared: dict[str, Any], *, stop: threading.Event | None = None, **how: Any
) -> ArrowEngine:
    """Run the stream of payments in this process until it has caught up, or `stop` is set."""
    settings, stream = settings_of(home, brokers), a_stream(topic, **declared)
    stand_on_an_empty_night(settings)
    make_stop = threading.Event if stop is None else lambda: stop
    engine = ArrowEngine(settings, stream, until_caught_up=stop is None, make_stop=make_stop, **how)
    engine.run()
    return engine


@contextmanager
def running(settings: Settings, topic: str, declared: Mapping[str, Any]) -> Iterator[None]:
    """The stream of payments in a thread of this process, while the block runs."""
    with beside(lambda stop: run_stream(settings.home_path, settings.kafka_brokers, topic, dict(declared), stop=stop)):
        yield


def state_of(settings: Settings) -> StreamState:
    """What the stream of payments says of itself; figures of none before it has said anything."""
    return read_state(settings, "payments") or StreamState()


def settings_of(home: Path, brokers: str) -> Settings:
    return load_settings(home=home, kafka_brokers=brokers)


def stream_until(home: Path, brokers: str, topic: str, declared: dict[str, Any], step: str) -> None:
    """Run the stream and die at a step."""

    stream_step.on_step = dies_at(step)
    run_stream(home, brokers, topic, declared)


def stream_on(home: Path, brokers: str, topic: str, declared: dict[str, Any]) -> None:
    """Run the stream until the process is killed."""
    run_stream(home, brokers, topic, declared, stop=threading.Event())
