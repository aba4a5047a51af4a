"""The engine `spark`: runs a query of Structured Streaming, and a new one if a checkpoint or a broker failed it.

A query reads and judges on the executors. The driver answers and commits with the same step and writer as the engine
`arrow`. Each query begins with a new step, whose tiles and ids are rebuilt from the table, since a failed batch may
have left wrong ones in memory.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from forecache.base.errors import InputError, UnavailableError
from forecache.base.settings import Settings
from forecache.declare import Stream
from forecache.kit.process.periodic import Backoff
from forecache.kit.process.wakes import STREAM_QUERY
from forecache.kit.spark.session import spark_session
from forecache.plugins.spark_stream.checkpoint import Checkpoint, Offsets, choose_checkpoint, starting_offsets
from forecache.plugins.spark_stream.sink import BatchHandler, CheckpointAheadError, SparkSink
from forecache.plugins.spark_stream.source import judge_frame, read_topic
from forecache.stream.engine.engine import ModelWatch, StreamEngine
from forecache.stream.engine.pending_rows import OrphanedPendingRows
from forecache.stream.kafka.client import DeadLetters, client_options
from forecache.stream.kafka.consumer import open_topic
from forecache.stream.state import stream_folder
from forecache.stream.step import StepResult
from forecache.stream.table.schema import KAFKA_AT

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from forecache.stream.events.event_judge import EventJudge


FOLDER = "kafka"
JARS = (
    "spark-sql-kafka-0-10_2.13-4.1.1.jar",
    "spark-token-provider-kafka-0-10_2.13-4.1.1.jar",
    "kafka-clients-3.9.1.jar",
    "commons-pool2-2.12.1.jar",
)
_JAAS = {
    "PLAIN": "org.apache.kafka.common.security.plain.PlainLoginModule",
    "SCRAM-SHA-256": "org.apache.kafka.common.security.scram.ScramLoginModule",
    "SCRAM-SHA-512": "org.apache.kafka.common.security.scram.ScramLoginModule",
}
# Options that have the same name in both clients.
_SAME = frozenset(
    {
        *("client.id", "client.rack", "fetch.max.bytes", "fetch.min.bytes", "isolation.level"),
        *("max.partition.fetch.bytes", "metadata.max.age.ms", "reconnect.backoff.max.ms", "reconnect.backoff.ms"),
        *("retry.backoff.ms", "session.timeout.ms", "ssl.key.password"),
    }
)
_SECURITY = frozenset(
    {
        *("security.protocol", "sasl.mechanism", "sasl.mechanisms", "sasl.username", "sasl.password"),
        *("ssl.ca.location", "ssl.ca.pem", "ssl.certificate.location", "ssl.certificate.pem", "ssl.key.location"),
        *("ssl.key.pem", "ssl.endpoint.identification.algorithm", "ssl.key.password"),
    }
)
_CONF = {
    # Batches without messages change nothing here.
    "spark.sql.streaming.noDataMicroBatches.enabled": "false",
    # A batch needs its own offsets and those of the one before.
    "spark.sql.streaming.minBatchesToRetain": "10",
}
_ENDS_TIMEOUT_S = 2.0
_ENDS_EVERY_S = 1.0
logger = logging.getLogger("forecache.stream")
_BACKOFF = Backoff(1.0, 30.0)


def kafka_jars(settings: Settings) -> list[Path]:
    """Paths of the jars, all present; [] if the Spark configuration names another connector."""
    own = settings.spark_conf.get("spark.jars", "") + settings.spark_conf.get("spark.jars.packages", "")
    if "spark-sql-kafka" in own:
        return []
    paths = [settings.spark_jars.resolve() / FOLDER / jar for jar in JARS]
    for path in paths:
        if not path.is_file():
            raise UnavailableError(
                f"Spark reads Kafka with the jar {path}, which is missing.", remedy="Run `make setup`."
            )
    return paths


def java_options(brokers: str, options: Mapping[str, str]) -> dict[str, str]:
    """Return the options of Spark's Kafka source, secrets included, such as `kafka.bootstrap.servers`.

    Options of librdkafka that only control its queues and timers are left out. Both clients read only committed
    messages of transactions, unless `isolation.level` says otherwise. InputError if a security option has no
    counterpart in the Java client, or its file cannot be read.
    """
    given = {name: str(value) for name, value in options.items()}
    for name in given:
        if name.startswith(("ssl.", "sasl.", "enable.ssl")) and name not in _SECURITY:
            raise InputError(
                f"The engine 'spark' cannot take the Kafka option {name!r}: the Java client has no such option.",
                remedy='Leave it out of FORECACHE_KAFKA_OPTIONS, or declare the stream with engine="arrow".',
            )
    java = {"bootstrap.servers": brokers, "isolation.level": "read_committed"}
    java |= {name: value for name, value in given.items() if name in _SAME}
    if "security.protocol" in given:
        java["security.protocol"] = given["security.protocol"].upper()
    java |= _sasl_options(given) | _certificate_options(given)
    return {f"kafka.{name}": value for name, value in java.items()}


def _sasl_options(given: Mapping[str, str]) -> dict[str, str]:
    mechanism = given.get("sasl.mechanism", given.get("sasl.mechanisms", "")).upper()
    if not mechanism:
        return {}
    if mechanism not in _JAAS:
        raise InputError(
            f"The engine 'spark' cannot log in to Kafka with sasl.mechanism={mechanism}.",
            remedy=f'Use one of {", ".join(_JAAS)}, or declare the stream with engine="arrow".',
        )
    user, password = (_quote(given.get(f"sasl.{name}", "")) for name in ("username", "password"))
    line = f"{_JAAS[mechanism]} required username={user} password={password};"
    return {"sasl.mechanism": mechanism, "sasl.jaas.config": line}


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _certificate_options(given: Mapping[str, str]) -> dict[str, str]:
    authority, chain, key = (_read_pem(given, f"ssl.{name}") for name in ("ca", "certificate", "key"))
    java: dict[str, str] = {}
    if authority:
        java |= {"ssl.truststore.type": "PEM", "ssl.truststore.certificates": authority}
    if chain and key:
        java |= {"ssl.keystore.type": "PEM", "ssl.keystore.certificate.chain": chain, "ssl.keystore.key": key}
    if given.get("ssl.endpoint.identification.algorithm") == "none":
        java["ssl.endpoint.identification.algorithm"] = ""
    return java


def _read_pem(given: Mapping[str, str], name: str) -> str:
    path = given.get(f"{name}.location")
    if not path:
        return given.get(f"{name}.pem", "")
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The file {path} of the Kafka option {name}.location cannot be read: {error}.",
            remedy="Name a PEM file that this process may read.",
        ) from error


class SparkQuery:
    """A query of Spark.

    The accumulator `unknown` counts events with undeclared members. `starts` has by partition of the topic the next
    offset, and is used if the checkpoint is new.
    """

    def __init__(
        self, spark: "SparkSession", settings: Settings, stream: Stream, judge: "EventJudge", checkpoint: Checkpoint,
        starts: Offsets,
    ) -> None:  # fmt: skip
        for name, value in _CONF.items():
            spark.conf.set(name, value)
        topic = stream.topic.topic
        settings.refuse_in_trial("read from Kafka")
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

        The batch in progress is finished. Raises what a batch raised, or UnavailableError if Spark's query failed.
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
            first = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason was given")
            raise UnavailableError(
                f"Spark's query of the stream {self._stream.name!r} failed: {first[:300].rstrip('.')}.",
                remedy="It is started again; look at the broker, and at HOME/spark/spark.log.",
            )


class EndOffsets:
    """The offset after the last message of each partition, looked up at most once a second."""

    def __init__(self, settings: Settings, topic: str) -> None:
        from confluent_kafka import Consumer

        # A group is required, and never joined.
        options = {**client_options(settings), "group.id": "forecache-streams", "enable.auto.commit": False}
        self._consumer, self._topic = Consumer(options), topic
        self._known: dict[int, int] = {}
        self._look_at = 0.0

    def read(self) -> dict[int, int]:
        """Return the end offsets by partition; the last known ones if the broker does not answer."""
        from confluent_kafka import KafkaException, TopicPartition

        if time.monotonic() < self._look_at:
            return self._known
        try:
            partitions = self._consumer.list_topics(self._topic, timeout=_ENDS_TIMEOUT_S).topics[self._topic].partitions
            self._known = {
                each: self._consumer.get_watermark_offsets(TopicPartition(self._topic, each), _ENDS_TIMEOUT_S)[1]
                for each in partitions
            }
        except KafkaException:
            pass  # the engine notices it too, and reports it
        self._look_at = time.monotonic() + _ENDS_EVERY_S
        return self._known

    def close(self) -> None:
        self._consumer.close()


class SparkEngine(StreamEngine):
    name = "spark"

    def _run(self, held: ExitStack) -> None:
        self._goal: Offsets = {}
        self._unknown: dict[SparkQuery, int] = {}
        self._send_answers(held)
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
        settings, stream = self._settings, self._stream
        topic, send_bad = stream.topic.topic, DeadLetters(settings, stream.topic.topic).send
        sink = SparkSink(
            settings, stream, send_bad=send_bad, lease=self._lease,
            done=lambda done, version: self._note_commit(sink, done, version),
        )  # fmt: skip
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
        self.figures.state.offsets = {str(p): offset for p, offset in sink.writer.offsets.items()}
        self.figures.state.committed_version = sink.writer.version
        self._watch = ModelWatch(sink.step.answerer)
        held.callback(self._watch.close)
        batches = BatchHandler(sink, checkpoint, starts, before=self._watch.switch_to_newer)
        return batches, SparkQuery(spark, settings, stream, sink.step.judge, checkpoint, starts)

    def _write_figures(self, batches: BatchHandler, query: SparkQuery) -> bool:
        """Write the figures; returns True if the stream has caught up and is to end then."""
        self._end_if_taken_over()
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
        self.figures.count_commit(version, sink.writer.offsets, answered.rows[KAFKA_AT].cast(pa.int64()).to_numpy())

    def _note_failure(self, sentence: str) -> None:
        self.figures.state.last_error = sentence


def checkpoints_of(settings: Settings, stream: Stream) -> str:
    """The folder or URI of a stream's checkpoints."""
    if settings.stream_checkpoints:
        return f"{settings.stream_checkpoints.rstrip('/')}/{stream.name}"
    return str(stream_folder(settings.home_path.resolve(), stream.name) / "checkpoints")
