"""The engine `spark`: runs a query of Structured Streaming, and a new one if a checkpoint or a broker failed it.

A query reads and judges on the executors. The driver answers and commits with the same step and writer as the engine
`arrow`. Each query begins with a new step, whose tiles and ids are rebuilt from the table, since a failed batch may
have left wrong ones in memory.
"""

import logging
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from forecache.errors import UnavailableError
from forecache.lake.spark.kafka import kafka_jars
from forecache.lake.spark.session import spark_session
from forecache.pipeline import Stream
from forecache.settings import Settings
from forecache.stream.engine.engine import Engine
from forecache.stream.engine.watch import ModelWatch
from forecache.stream.kafka.client import client_options
from forecache.stream.kafka.dead_letters import DeadLetters
from forecache.stream.kafka.ends import Ends
from forecache.stream.kafka.open_topic import opened_topic
from forecache.stream.left_rows import LeftRows
from forecache.stream.record import KAFKA_AT
from forecache.stream.spark.batches import Batches, CheckpointAhead
from forecache.stream.spark.checkpoint import Offsets, checkpoint_for
from forecache.stream.spark.query import Query
from forecache.stream.spark.sink import Sink
from forecache.stream.step.answered import Answered
from forecache.stream.topic.run import answers_sent
from forecache.stream_state import stream_folder

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

logger = logging.getLogger("forecache.stream")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0


class SparkEngine(Engine):
    """See `forecache.stream.engine.engine.StreamEngine`."""

    name = "spark"

    def _run(self, held: ExitStack) -> None:
        self._goal: Offsets = {}
        self._unknown: dict[Query, int] = {}
        options = client_options(self._settings)
        held.enter_context(answers_sent(self._settings, self._stream, options, self._failed))
        self._ends = Ends(self._settings, self._stream.topic.topic)
        held.callback(self._ends.close)
        self._run_queries(spark_session(self._settings, more_jars=kafka_jars(self._settings)))

    def _tell_at_end(self) -> None:
        self.figures.write(self._ends.read(), now=True)

    def _run_queries(self, spark: "SparkSession") -> None:
        pause, distrust = _FIRST_PAUSE_S, ""
        while not self._stop.is_set():
            batches = None
            try:
                with ExitStack() as held:
                    batches, query = self._prepared(spark, distrust, held)
                    query.run(batches, self._stop, partial(self._look, batches, query))
                    batches.finish()
                return
            except CheckpointAhead as error:
                logger.warning("%s The stream goes on from the table's offsets.", error.message)
                distrust = ""
            except UnavailableError as error:
                logger.warning("%s", error)
                if batches is not None and batches.done:
                    # Such as the connector's own failure (4.1.1) after a batch that is repeated after a crash.
                    pause, distrust = _FIRST_PAUSE_S, ""
                    continue
                self._failed(str(error))
                # A query without a finished batch may have a checkpoint that Spark cannot resume from.
                distrust = "" if batches is None else "The last query did not finish a batch."
                self.figures.write(now=True)
                self._stop.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _prepared(self, spark: "SparkSession", distrust: str, held: ExitStack) -> tuple[Batches, Query]:
        """Make a query at the table's offsets, with a sink whose state is rebuilt from the table."""
        settings, stream = self._settings, self._stream
        topic, send_bad = stream.topic.topic, DeadLetters(settings, stream.topic.topic).send
        sink = Sink(
            settings, stream, send_bad=send_bad, done=lambda done, version: self._committed(sink, done, version)
        )
        held.callback(sink.step.repeats.close)
        held.callback(sink.tiles.close)
        reader = opened_topic(settings, stream, sink.writer, skip_lost=self._skip_lost)
        reader.close()
        self._left = LeftRows(settings, stream, sink.writer)
        held.callback(self._left.close)
        if self._skip_lost:
            self._left.give_up_waiting()
        starts, self._skip_lost = dict(reader.next), False
        self._goal = self._goal or self._ends.read()
        checkpoint, reason = checkpoint_for(spark, checkpoints_of(settings, stream), topic, starts, distrust=distrust)
        if reason:
            logger.warning("%s The stream takes the new checkpoint %s.", reason, checkpoint.path)
        self.figures.state.offsets = {str(p): offset for p, offset in sink.offsets.items()}
        self.figures.state.committed_version = sink.writer.version
        self._watch = ModelWatch(sink.step.answerer)
        held.callback(self._watch.close)
        batches = Batches(sink, checkpoint, starts, before=self._watch.take_up)
        return batches, Query(spark, settings, stream, sink.step.judge, checkpoint, starts)

    def _look(self, batches: Batches, query: Query) -> bool:
        """Write the figures; returns True if the stream has caught up and is to end then."""
        counted = query.unknown.value
        self.figures.state.unknown += counted - self._unknown.get(query, 0)
        self._unknown[query] = counted
        self._left.sweep()
        if self._watch.failure:
            self._failed(self._watch.failure)
        self.figures.write(self._ends.read())
        return self._until_caught_up and batches.has_reached(self._goal)

    def _committed(self, sink: Sink, answered: Answered, version: int) -> None:
        state = self.figures.state
        state.bad += answered.bad.num_rows
        state.repeats += answered.repeats
        state.late += answered.late
        state.release, state.last_error = sink.step.answerer.release, ""
        if answered.failure:
            self._failed(f"{answered.failed} rows have no answer: {answered.failure}")
        if trouble := sink.step.trouble or sink.tiles.failure:
            self._failed(trouble)
        self._left.confirm(batch=-1, version=version)
        self.figures.committed(version, sink.offsets, answered.rows[KAFKA_AT].cast(pa.int64()).to_numpy())

    def _failed(self, sentence: str) -> None:
        self.figures.state.last_error = sentence


def checkpoints_of(settings: Settings, stream: Stream) -> str:
    """The folder or URI of a stream's checkpoints."""
    if settings.stream_checkpoints:
        return f"{settings.stream_checkpoints.rstrip('/')}/{stream.name}"
    return str(stream_folder(settings.home_path.resolve(), stream.name) / "checkpoints")
