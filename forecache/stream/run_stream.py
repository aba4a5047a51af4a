"""Runs a stream with the engine that it declares."""

import threading

from forecache.base.plugins import load_hook
from forecache.base.settings import Settings
from forecache.declare import Stream
from forecache.stream.engine.engine import StreamEngine


def run_stream(
    settings: Settings,
    stream: Stream,
    *,
    until_caught_up: bool = False,
    skip_lost: bool = False,
    stop: threading.Event | None = None,
) -> None:
    """Run a stream until `stop` is set, or it has caught up with what its topic held at the start.

    Args, Raises:
        See `StreamEngine` and its `run`.
    """
    engine = _engine_of(stream)
    engine(settings, stream, until_caught_up=until_caught_up, skip_lost=skip_lost, stop=stop).run()


def _engine_of(stream: Stream) -> type[StreamEngine]:
    if stream.engine == "spark":
        engine: type[StreamEngine] = load_hook("spark_stream", "engine")
        return engine
    from forecache.stream.arrow.engine import ArrowEngine

    return ArrowEngine
