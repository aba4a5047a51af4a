"""One query of Structured Streaming: from the topic through the executors to the batches on the driver."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from forecache.base.errors import ForecacheError, UnavailableError
from forecache.base.settings import Settings
from forecache.declare import Stream
from forecache.kit.process.wakes import STREAM_QUERY
from forecache.plugins.spark_stream.batch_handler import BatchHandler
from forecache.plugins.spark_stream.checkpoint import Checkpoint, Offsets, starting_offsets
from forecache.plugins.spark_stream.java_options import java_options
from forecache.plugins.spark_stream.source import judge_frame, read_topic

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from forecache.stream.events.event_judge import EventJudge

_CONF = {
    # Batches without messages change nothing here.
    "spark.sql.streaming.noDataMicroBatches.enabled": "false",
    # A batch needs its own offsets and those of the one before.
    "spark.sql.streaming.minBatchesToRetain": "10",
}


class SparkQuery:
    """
    Attributes:
        unknown: Accumulator of events with undeclared members.

    Args:
        starts: By partition of the topic, the next offset; used if the checkpoint is new.
    """

    def __init__(
        self, spark: "SparkSession", settings: Settings, stream: Stream, judge: "EventJudge", checkpoint: Checkpoint,
        starts: Offsets,
    ) -> None:  # fmt: skip
        for name, value in _CONF.items():
            spark.conf.set(name, value)
        topic = stream.topic.topic
        options = java_options(settings.kafka_brokers, settings.kafka_options)
        messages = read_topic(spark, topic, options, starting=starting_offsets(topic, starts))
        self.unknown = spark.sparkContext.accumulator(0)
        self._stream = stream
        self._writer = (
            judge_frame(messages, judge, unknown=self.unknown.add)
            .writeStream.queryName(f"forecache-{stream.name}")
            .option("checkpointLocation", checkpoint.path)
            .trigger(processingTime=f"{round(stream.commit_s * 1000)} milliseconds")
        )

    def run(self, batches: BatchHandler, stop: threading.Event, look: Callable[[], bool]) -> None:
        """Run until `stop` is set or `look`, called several times a second, returns True.

        The batch in progress is finished.

        Raises:
            UnavailableError: Spark's query failed.
            The exception that a batch raised.
        """
        query = self._writer.foreachBatch(batches).start()
        is_enough = False
        try:
            while query.isActive and not is_enough:
                is_enough = stop.wait(STREAM_QUERY.every_s) or look()
        finally:
            batches.close()
            query.stop()
        if batches.failure is not None:
            raise batches.failure
        if not is_enough and (error := query.exception()) is not None:
            raise _query_error(self._stream, error)


def _query_error(stream: Stream, error: Any) -> ForecacheError:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason was given")
    return UnavailableError(
        f"Spark's query of the stream {stream.name!r} failed: {first[:300].rstrip('.')}.",
        remedy="It is started again; look at the broker, and at HOME/spark/spark.log.",
    )
