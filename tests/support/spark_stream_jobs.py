"""What processes of their own do to the stream of payments with the engine `spark`, and the same in this process."""

import threading
from pathlib import Path
from typing import Any

import pytest
from dying import dies_at
from stream_jobs import stand_on_an_empty_night
from stream_sample import a_stream

from forecache.base.settings import Settings, load_settings
from forecache.base.steps import stream_step
from forecache.plugins.spark_stream import source
from forecache.plugins.spark_stream.engine import SparkEngine

SPARK = {"engine": "spark", "commit_s": 0.2}


def spark_settings(home: Path, brokers: str, **given: Any) -> Settings:
    return load_settings(home=home, kafka_brokers=brokers, spark_master="local[2]", spark_driver_memory="1g", **given)


def run_with_spark(
    settings: Settings, topic: str, *, stop: threading.Event | None = None, per_batch: int = 30, **declared: Any
) -> SparkEngine:
    """Run the stream of payments in this process until it has caught up, or `stop` is set."""
    stand_on_an_empty_night(settings)
    stream = a_stream(topic, **{**SPARK, **declared})
    engine = SparkEngine(settings, stream, until_caught_up=stop is None, make_stop=lambda: stop or threading.Event())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(source, "MESSAGES_A_BATCH", per_batch)
        engine.run()
    return engine


def run_until(home: Path, brokers: str, topic: str, step: str, times: int, given: dict[str, Any]) -> None:
    """Run the stream and die at a step, when it comes for the `times`th time."""
    stream_step.on_step = dies_at(step, times)
    run_with_spark(spark_settings(home, brokers, **given), topic)
