"""Produces a stream's answers as JSON messages, in one transaction for each commit of the table.

The commit's version is a message of the same transaction in a second, compacted topic, `<topic>-versions`. So a
consumer that reads committed messages gets the answers of a version as a whole or not at all, and a new producer reads
there which version comes next. A second producer of the same stream fences the first.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa

from forecache.base.errors import ConflictError, UnavailableError
from forecache.base.steps import topic_step

_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC


def row_messages(rows: pa.Table, key: Sequence[str]) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of each row: times in ISO 8601, NaN and infinity as null.

    Args:
        key: The columns whose texts, joined by `|`, are the message's key: messages of one key keep their order.
    """
    for row in rows.to_pylist():
        yield "|".join(str(row[name]) for name in key).encode(), orjson.dumps(row, option=_OPTIONS, default=_to_text)


def _to_text(value: object) -> str:
    """Convert a value without a JSON type, such as bytes or a decimal."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


VERSIONS = "-versions"
_TIMEOUT_S = 30.0
_LOOK_BACK = 200
_COMPACTED = {"cleanup.policy": "compact", "segment.ms": "3600000", "min.cleanable.dirty.ratio": "0.01"}
_REMEDY = "Check that the broker answers and that this user may read and write the topic; it is tried again."


class AnswersProducer:
    """
    Attributes:
        version: The table's version up to which answers are in the topic; -1 before the first.

    Args:
        options: Options of the client, with `bootstrap.servers`.
        stream: Name of the stream.
        table_id: Id of its table: a table that was created again begins with its first version.
        key: Columns that a message is keyed by.

    Raises:
        UnavailableError: The broker does not answer.
    """

    def __init__(
        self, options: Mapping[str, Any], *, topic: str, stream: str, table_id: str, key: tuple[str, ...]
    ) -> None:
        from confluent_kafka import KafkaException, Producer

        self._options, self._topic, self._stream, self._table_id, self._key = options, topic, stream, table_id, key
        _create_versions_topic(options, topic + VERSIONS)
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

        Raises:
            ConflictError: Another producer of this stream has taken over.
            UnavailableError: The transaction failed or its result is unknown: make a new producer.
        """
        from confluent_kafka import KafkaException

        if version <= self.version:
            return
        note = json.dumps({"version": version, "table": self._table_id})
        try:
            self._producer.begin_transaction()
            for key, value in row_messages(rows, self._key):
                self._produce(self._topic, key, value)
                topic_step("produced")
            self._produce(self._topic + VERSIONS, self._stream.encode(), note.encode(), partition=0)
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

    def _produce(self, topic: str, key: bytes, value: bytes, **where: int) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key, **where)
                self._producer.poll(0)
                return
            except BufferError:
                self._producer.poll(0.1)


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


def _create_versions_topic(options: Mapping[str, Any], topic: str) -> None:
    """Create the topic of versions if it does not exist."""
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient(dict(options))
    try:
        if topic in admin.list_topics(timeout=_TIMEOUT_S).topics:
            return
        # With the broker's default number of replicas.
        admin.create_topics([NewTopic(topic, 1, -1, config=_COMPACTED)])[topic].result(_TIMEOUT_S)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise UnavailableError(
                f"The topic {topic} cannot be made: {error.args[0].str()}.",
                remedy="Make it by hand, compacted and with one partition, or let this user make topics.",
            ) from error


def _kafka_error(error: Any, topic: str) -> ConflictError | UnavailableError:
    from confluent_kafka import KafkaError

    about = error.args[0]
    if about.code() in (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED):
        return ConflictError(
            f"Another process sends the answers to the topic {topic}.", remedy="Let only one process run the stream."
        )
    return UnavailableError(f"Answers cannot be sent to the topic {topic}: {about.str()}.", remedy=_REMEDY)
