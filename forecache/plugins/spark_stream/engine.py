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

from forecache.base.errors import UnavailableError
from forecache.base.settings import Settings
from forecache.base.stream_state import stream_folder
from forecache.declare import Stream
from forecache.kit.process.periodic import Backoff
from forecache.kit.spark.kafka import kafka_jars
from forecache.kit.spark.session import spark_session
from forecache.plugins.spark_stream.batch_handler import BatchHandler, CheckpointAheadError
from forecache.plugins.spark_stream.checkpoint import Offsets, choose_checkpoint
from forecache.plugins.spark_stream.query import SparkQuery
from forecache.plugins.spark_stream.sink import SparkSink
from forecache.stream.engine.engine import ModelWatch, StreamEngine
from forecache.stream.kafka.client import client_options
from forecache.stream.kafka.consumer import EndOffsets
from forecache.stream.kafka.dead_letters import DeadLetters
from forecache.stream.kafka.open_topic import open_topic
from forecache.stream.orphaned_pending_rows import OrphanedPendingRows
from forecache.stream.step.step import StepResult
from forecache.stream.table_schema import KAFKA_AT
from forecache.stream.topic.send_answers import send_answers

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

logger = logging.getLogger("forecache.stream")
_BACKOFF = Backoff(1.0, 30.0)


class SparkEngine(StreamEngine):
    """See `forecache.stream.engine.engine.StreamEngine`."""

    name = "spark"

    def _run(self, held: ExitStack) -> None:
        self._goal: Offsets = {}
        self._unknown: dict[SparkQuery, int] = {}
        options = client_options(self._settings)
        held.enter_context(send_answers(self._settings, self._stream, options, self._note_failure))
        self._ends = EndOffsets(self._settings, self._stream.topic.topic)
        held.callback(self._ends.close)
        self._run_queries(spark_session(self._settings, more_jars=kafka_jars(self._settings)))

    def _write_last_figures(self) -> None:
        self.figures.write(self._ends.read(), now=True)

    def _run_queries(self, spark: "SparkSession") -> None:
        failures, distrust = 0, ""
        while not self._stop.is_set():
            batches = None
            try:
                with ExitStack() as held:
                    batches, query = self._prepare_query(spark, distrust, held)
                    query.run(batches, self._stop, partial(self._write_figures, batches, query))
                    batches.finish()
                return
            except CheckpointAheadError as error:
                logger.warning("%s The stream goes on from the table's offsets.", error.message)
                distrust = ""
            except UnavailableError as error:
                logger.warning("%s", error)
                if batches is not None and batches.done:
                    # Such as the connector's own failure (4.1.1) after a batch that is repeated after a crash.
                    failures, distrust = 0, ""
                    continue
                self._note_failure(str(error))
                # A query without a finished batch may have a checkpoint that Spark cannot resume from.
                distrust = "" if batches is None else "The last query did not finish a batch."
                self.figures.write(now=True)
                failures += 1
                self._stop.wait(_BACKOFF.pause_s(failures))

    def _prepare_query(self, spark: "SparkSession", distrust: str, held: ExitStack) -> tuple[BatchHandler, SparkQuery]:
        """Make a query at the table's offsets, with a sink whose state is rebuilt from the table."""
        settings, stream = self._settings, self._stream
        topic, send_bad = stream.topic.topic, DeadLetters(settings, stream.topic.topic).send
        sink = SparkSink(
            settings, stream, send_bad=send_bad, done=lambda done, version: self._note_commit(sink, done, version)
        )
        held.callback(sink.step.repeats.close)
        held.callback(sink.tiles.close)
        reader = open_topic(settings, stream, sink.writer, skip_lost=self._skip_lost)
        reader.close()
        self._left = OrphanedPendingRows(settings, stream, sink.writer)
        held.callback(self._left.close)
        if self._skip_lost:
            self._left.remove_lost_rows()
        starts, self._skip_lost = dict(reader.next), False
        self._goal = self._goal or self._ends.read()
        checkpoint, reason = choose_checkpoint(
            spark, checkpoints_of(settings, stream), topic, starts, distrust=distrust
        )
        if reason:
            logger.warning("%s The stream takes the new checkpoint %s.", reason, checkpoint.path)
        self.figures.state.offsets = {str(p): offset for p, offset in sink.offsets.items()}
        self.figures.state.committed_version = sink.writer.version
        self._watch = ModelWatch(sink.step.answerer)
        held.callback(self._watch.close)
        batches = BatchHandler(sink, checkpoint, starts, before=self._watch.switch_to_newer)
        return batches, SparkQuery(spark, settings, stream, sink.step.judge, checkpoint, starts)

    def _write_figures(self, batches: BatchHandler, query: SparkQuery) -> bool:
        """Write the figures; returns True if the stream has caught up and is to end then."""
        counted = query.unknown.value
        self.figures.state.unknown += counted - self._unknown.get(query, 0)
        self._unknown[query] = counted
        self._left.sweep()
        if self._watch.failure:
            self._note_failure(self._watch.failure)
        self.figures.write(self._ends.read())
        return self._until_caught_up and batches.has_reached(self._goal)

    def _note_commit(self, sink: SparkSink, answered: StepResult, version: int) -> None:
        state = self.figures.state
        state.bad += answered.bad.num_rows
        state.repeats += answered.repeats
        state.late += answered.late
        state.release, state.last_error = sink.step.answerer.release, ""
        if answered.failure:
            self._note_failure(f"{answered.failed} rows have no answer: {answered.failure}")
        if trouble := sink.step.problem or sink.tiles.failure:
            self._note_failure(trouble)
        self._left.confirm(batch=-1, version=version)
        self.figures.count_commit(version, sink.offsets, answered.rows[KAFKA_AT].cast(pa.int64()).to_numpy())

    def _note_failure(self, sentence: str) -> None:
        self.figures.state.last_error = sentence


def checkpoints_of(settings: Settings, stream: Stream) -> str:
    """The folder or URI of a stream's checkpoints."""
    if settings.stream_checkpoints:
        return f"{settings.stream_checkpoints.rstrip('/')}/{stream.name}"
    return str(stream_folder(settings.home_path.resolve(), stream.name) / "checkpoints")
