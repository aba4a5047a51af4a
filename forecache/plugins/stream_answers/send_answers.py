"""Produces a stream's answers as JSON messages, in one transaction for each commit of the table.

The commit's version is a message of the same transaction in a second, compacted topic, `<topic>-versions`. So a
consumer that reads committed messages gets the answers of a version as a whole or not at all, and a new producer reads
there which version comes next. A second producer of the same stream fences the first.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from forecache.base.errors import ConflictError, ForecacheError, UnavailableError
from forecache.base.settings import Settings
from forecache.base.steps import topic_step
from forecache.declare import Stream
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.log import open_if_exists
from forecache.kit.process.periodic import Backoff, PeriodicThread
from forecache.kit.process.wakes import STREAM_ANSWERS
from forecache.stream.kafka.client import create_topic, produce
from forecache.stream.table.schema import PLACE, POSITION
from forecache.stream.tail.table_log import TableLog

_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC
VERSIONS = "-versions"
_TIMEOUT_S = 30.0
_LOOK_BACK = 200
_COMPACTED = {"cleanup.policy": "compact", "segment.ms": "3600000", "min.cleanable.dirty.ratio": "0.01"}
_REMEDY = "Check that the broker answers and that this user may read and write the topic; it is tried again."
_CLOSE_S = 30.0
_BACKOFF = Backoff(1.0, 30.0)


def row_messages(rows: pa.Table, key: Sequence[str]) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of each row: times in ISO 8601, NaN and infinity as null.

    The texts of the columns `key`, joined by `|`, are the message's key: messages of one key keep their order.
    """
    for row in rows.to_pylist():
        yield "|".join(str(row[name]) for name in key).encode(), orjson.dumps(row, option=_OPTIONS, default=_to_text)


def _to_text(value: object) -> str:
    """Convert a value without a JSON type, such as bytes or a decimal."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


class AnswersProducer:
    """Sends the answers of a stream to a topic. UnavailableError if the broker does not answer.

    `version` is the table's version up to which answers are in the topic; -1 before the first. A table that was created
    again has another `table_id`, and begins with its first version.
    """

    def __init__(
        self, options: Mapping[str, Any], *, topic: str, stream: str, table_id: str, key: tuple[str, ...]
    ) -> None:
        from confluent_kafka import KafkaException, Producer

        self._options, self._topic, self._stream, self._table_id, self._key = options, topic, stream, table_id, key
        by_hand = ", compacted and with one partition"
        create_topic(options, topic + VERSIONS, partitions=1, config=_COMPACTED, timeout_s=_TIMEOUT_S, by_hand=by_hand)
        transactional_id = f"forecache-answers-{stream}-{topic}"
        self._producer: Any = Producer({**options, "transactional.id": transactional_id, "linger.ms": 5})
        try:
            # Aborts the open transaction of an earlier producer.
            self._producer.init_transactions(_TIMEOUT_S)
        except KafkaException as error:
            raise _kafka_error(error, topic) from error
        self.version = last_version(options, topic, stream, table_id)

    def send(self, version: int, rows: pa.Table) -> None:
        """Send the answers of a version in one transaction, unless the topic has them.

        ConflictError if another producer of this stream has taken over. UnavailableError if the transaction failed or
        its result is unknown: make a new producer.
        """
        from confluent_kafka import KafkaException

        if version <= self.version:
            return
        note = json.dumps({"version": version, "table": self._table_id})
        try:
            self._producer.begin_transaction()
            for key, value in row_messages(rows, self._key):
                produce(self._producer, self._topic, value, key)
                self._producer.poll(0)
                topic_step("produced")
            produce(self._producer, self._topic + VERSIONS, note.encode(), self._stream.encode(), partition=0)
            self._producer.flush(_TIMEOUT_S)
            topic_step("flushed")
            self._producer.commit_transaction(_TIMEOUT_S)
        except KafkaException as error:
            raise _kafka_error(error, self._topic) from error
        self.version = version
        topic_step("sent")

    def close(self) -> None:
        """Abort an open transaction."""
        from confluent_kafka import KafkaException

        with contextlib.suppress(KafkaException):
            self._producer.purge()
            self._producer.abort_transaction(1.0)


def last_version(options: Mapping[str, Any], topic: str, stream: str, table_id: str) -> int:
    """Return the table's version up to which committed answers are in the topic; -1 if there are none."""
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    consumer = Consumer(
        {
            **options,
            "group.id": f"forecache-answers-{stream}",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    try:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic + VERSIONS, 0), _TIMEOUT_S)
        found = -1
        # The newest entry is near the end, unless many transactions were aborted.
        for start in sorted({max(low, high - _LOOK_BACK), low}, reverse=True):
            consumer.assign([TopicPartition(topic + VERSIONS, 0, start)])
            found = _read_newest_version(consumer, stream, table_id)
            if found >= 0:
                break
        return found
    except KafkaException as error:
        raise _kafka_error(error, topic) from error
    finally:
        consumer.close()


def _read_newest_version(consumer: Any, stream: str, table_id: str) -> int:
    """Read the rest of a consumer's topic; returns the newest version in it, or -1."""
    from confluent_kafka import KafkaError

    found = -1
    while True:
        message = consumer.poll(_TIMEOUT_S)
        if message is None:
            raise UnavailableError(
                f"The topic of versions of the stream {stream!r} cannot be read to its end.", remedy=_REMEDY
            )
        if message.error() is not None:
            if message.error().code() == KafkaError._PARTITION_EOF:
                return found
            raise UnavailableError(
                f"The topic of versions of the stream {stream!r} cannot be read: {message.error().str()}.",
                remedy=_REMEDY,
            )
        if message.key() == stream.encode():
            told = json.loads(message.value())
            found = told["version"] if told["table"] == table_id else -1


def _kafka_error(error: Any, topic: str) -> ConflictError | UnavailableError:
    from confluent_kafka import KafkaError

    about = error.args[0]
    if about.code() in (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED):
        return ConflictError(
            f"Another process sends the answers to the topic {topic}.", remedy="Let only one process run the stream."
        )
    return UnavailableError(f"Answers cannot be sent to the topic {topic}: {about.str()}.", remedy=_REMEDY)


class CommittedRows:
    """The commits of a table after a version; `version` is the last one that was read."""

    def __init__(self, settings: Settings, table: str, version: int) -> None:
        self.version = version
        # A person's rewrite of old rows sends them once more; it must not end the sending of new ones.
        self._settings, self._log = settings, TableLog(settings, table, remembered=0, checks_positions=False)
        self._looked_behind = False

    def read(self) -> Iterator[tuple[int, pa.Table]]:
        """Yield the new commits, each with its rows in order; commits without rows are left out.

        The log is read entry by entry. If it lacks the next one at the first call, since a checkpoint of the log
        removes old entries, the rows are found by their position.
        """
        while (commit := self._log.read_commit(self.version + 1)) is not None:
            self.version = commit.version
            if commit.rows is not None:
                yield self.version, commit.rows
        if not self._looked_behind:
            self._looked_behind = True
            yield from self._read_by_position()

    def _read_by_position(self) -> Iterator[tuple[int, pa.Table]]:
        """Yield commits without log entries, from the files of the newest version."""
        delta = open_if_exists(self._settings, self._log.table)
        if delta is None or delta.version() <= self.version:
            return
        newest = int(delta.version())
        found = open_dataset(delta).to_table(filter=pc.field(POSITION) > self.version)
        found = found.sort_by([(POSITION, "ascending"), (PLACE, "ascending")])
        for position in pc.unique(found[POSITION]).to_pylist():
            self.version = position
            yield position, found.filter(pc.equal(found[POSITION], position))
        self.version = newest


@contextmanager
def send_answers(
    settings: Settings, stream: Stream, options: Mapping[str, Any], failed: Callable[[str], None]
) -> Iterator[None]:
    """Send the answers in the table and those that are committed while the block runs, to the topic of the stream.

    A producer that fails is replaced after a pause; unsent answers are still in the table. `failed` is called with one
    sentence at each failure.
    """

    def wait(seconds: float) -> bool:
        thread.note_success()  # all that is committed was sent
        return thread.stopping.wait(seconds)

    def keep_sending() -> None:
        try:
            send_until(settings, stream, options, wait)
        except Exception as error:
            failed(str(error) if isinstance(error, ForecacheError) else f"Sending answers failed: {error}")
            raise

    thread = PeriodicThread(STREAM_ANSWERS, keep_sending, at_once=True, backoff=_BACKOFF, close_s=_CLOSE_S)
    with thread:
        yield


def send_until(settings: Settings, stream: Stream, options: Mapping[str, Any], wait: Callable[[float], bool]) -> None:
    """Send answers until `wait`, called with seconds if there is nothing to send, returns True.

    ConflictError if another process sends them, UnavailableError if the broker does not answer.
    """
    assert stream.to_topic is not None
    is_over = False
    while (delta := open_if_exists(settings, stream.table)) is None:
        if is_over:
            return
        is_over = wait(STREAM_ANSWERS.every_s)
    producer = AnswersProducer(
        options,
        topic=stream.to_topic.topic,
        stream=stream.name,
        table_id=str(delta.metadata().id),
        key=stream.key or stream.source.unique,
    )
    committed = CommittedRows(settings, stream.table, producer.version)
    try:
        while True:
            for version, rows in committed.read():
                producer.send(version, rows)
            if is_over:
                return
            # Answers that were committed before the end are still sent.
            is_over = wait(STREAM_ANSWERS.every_s)
    finally:
        producer.close()
