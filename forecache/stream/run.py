"""Runs a stream with the engine that it declares."""

import threading

from forecache.pipeline import Stream
from forecache.settings import Settings


def run_stream(
    settings: Settings,
    stream: Stream,
    *,
    until_caught_up: bool = False,
    skip_lost: bool = False,
    stop: threading.Event | None = None,
) -> None:
    """Run a stream until `stop` is set, or it has caught up with what its topic held at the start.

    Args:
        skip_lost: Go on with the messages that are there, where others were lost.

    Raises:
        As `run` of `forecache.stream.arrow.engine.ArrowEngine` and of `forecache.stream.spark.engine.SparkEngine`.
    """
    if stream.engine == "spark":
        from forecache.stream.spark.engine import SparkEngine

        SparkEngine(settings, stream, until_caught_up=until_caught_up, skip_lost=skip_lost, stop=stop).run()
    else:
        from forecache.stream.arrow.engine import ArrowEngine

        ArrowEngine(settings, stream, until_caught_up=until_caught_up, skip_lost=skip_lost, stop=stop).run()
