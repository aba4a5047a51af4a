"""Reads a topic from offsets that its caller keeps: no consumer group, nothing is stored in Kafka.

Lost messages are an error, never a gap: those that expired before they were read, and those of a topic that was deleted
and created again.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from forecache.base.errors import DamagedError, NotFoundError, SettingsError
from forecache.base.settings import Settings
from forecache.declare import Stream
from forecache.stream.kafka.client import client_options, unreachable_error
from forecache.stream.table.schema import ALL_PARTITIONS, MESSAGES, QUARANTINE, Shard, schema_of
from forecache.stream.table.writer import CommitBatch, StreamWriter

_TIMEOUT_S = 15.0
_PARTITIONS_EVERY_S = 30.0
_LASTS_S = 10.0
Offsets = Mapping[int, int]
logger = logging.getLogger("forecache.stream")


class TopicReader:
    """Reads the messages of a topic. `topic_id` is "" if the broker has none; `next` has the next offset by partition.

    `start` has by partition the offset to start at; empty: all partitions are read from their first message. A batch
    has at most `batch` messages; `linger_s` after the first it is complete. With `skip_lost` it continues with the
    first message that exists, if those before it are lost. Of a `shard` it reads the partitions. The topic may not
    have more than `partitions`; 0: any number.

    UnavailableError if no broker answers, NotFoundError if there is no such topic, DamagedError if messages that were
    not read yet are lost, SettingsError if there are more partitions.
    """

    def __init__(
        self, settings: Settings, topic: str, start: Offsets, *, batch: int, linger_s: float, skip_lost: bool = False,
        shard: Shard = ALL_PARTITIONS, partitions: int = 0,
    ) -> None:  # fmt: skip
        from confluent_kafka import Consumer

        self._settings, self._topic, self._batch, self._linger_s = settings, topic, batch, linger_s
        self._skip_lost, self._shard, self._partitions = skip_lost, shard, partitions
        self._failure, self._failed_at = "", 0.0
        self.next: dict[int, int] = {}
        self._ends_at: dict[int, int] = {}
        options = client_options(settings)
        self._consumer: Any = Consumer(
            {
                "group.id": "forecache-streams",  # required, and never joined
                "fetch.wait.max.ms": 100,
                "queued.max.messages.kbytes": 65_536,
                "isolation.level": "read_committed",
                **options,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "error_cb": self._note_client_error,
            }
        )
        try:
            self.topic_id = self._look_up_topic_id(options)
            self._start = dict(start)
            self._assign_partitions()
        except BaseException:
            self._consumer.close()
            raise

    def _look_up_topic_id(self, options: Mapping[str, Any]) -> str:
        """Look up the topic's id, which changes if it is deleted and created again; "" if the broker is too old."""
        from confluent_kafka import KafkaError, KafkaException, TopicCollection
        from confluent_kafka.admin import AdminClient

        admin = AdminClient(dict(options))  # kept until it has answered
        asked = TopicCollection([self._topic])
        try:
            future = admin.describe_topics(asked, request_timeout=_TIMEOUT_S)[self._topic]
            found = getattr(future.result(_TIMEOUT_S + 1), "topic_id", None)
            return "" if found is None else str(found)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise self._no_topic_error() from None
            if error.args[0].code() == KafkaError._UNSUPPORTED_FEATURE:
                return ""
            raise unreachable_error(self._settings, f"The topic {self._topic} cannot be looked up", error) from error

    def _no_topic_error(self) -> NotFoundError:
        return NotFoundError(
            f"There is no topic {self._topic!r} at {self._settings.kafka_brokers}.",
            remedy="Create it (`forecache stream NAME --create-topic`, with the stream's name), or correct the `topic` "
            "of the declaration.",
        )

    def _assign_partitions(self) -> None:
        """Assign all partitions of the topic, including those that were added since the last call."""
        from confluent_kafka import KafkaException, TopicPartition

        self._look_again = time.monotonic() + _PARTITIONS_EVERY_S
        try:
            known = self._consumer.list_topics(self._topic, timeout=_TIMEOUT_S).topics[self._topic].partitions
            new = sorted(filter(self._shard.has_partition, set(known) - set(self.next)))
            bounds = {
                partition: self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), _TIMEOUT_S)
                for partition in new
            }
        except KafkaException as error:
            if self.next:
                return  # the assigned partitions are read; new ones are looked for again later
            raise unreachable_error(self._settings, f"The topic {self._topic} cannot be read", error) from error
        if not known:
            raise self._no_topic_error()
        if 0 < self._partitions < len(known):
            raise self._more_partitions_error(len(known))
        for partition, offset in self._start.items():
            if partition not in known and offset and not self._skip_lost:
                raise self._recreated_error(f"it has no partition {partition}, of which the stream has read {offset}")
        for partition, (low, high) in bounds.items():
            # An unknown partition of a stream that has begun is new, and is read from its first message.
            offset = self._start.get(partition, 0 if self._start else low)
            if not low <= offset <= high and self._skip_lost:
                offset = low
            if offset < low:
                raise self._expired_error(partition, offset, low)
            if offset > high:
                raise self._recreated_error(
                    f"partition {partition} ends at offset {high}, and the stream has read up to {offset}"
                )
            self.next[partition], self._ends_at[partition] = offset, high
        if new:
            self._consumer.assign([TopicPartition(self._topic, p, offset) for p, offset in self.next.items()])

    def _more_partitions_error(self, count: int) -> SettingsError:
        return SettingsError(
            f"The topic {self._topic} has {count} partitions, and had {self._partitions} when the stream began: its "
            "keys are in other partitions now, and their shards lack what was before.",
            remedy="Declare the stream with `shards=1` and leave it at 1, or declare another stream for a topic "
            "with more partitions.",
        )

    def _expired_error(self, partition: int, offset: int, low: int) -> DamagedError:
        return DamagedError(
            f"Messages {offset} to {low - 1} of partition {partition} of the topic {self._topic} expired before the "
            "stream had read them.",
            remedy="Have them sent again or take them from the landing files; then go on with what is there by "
            "`forecache stream NAME --skip-lost`. Raise the topic's retention.ms.",
        )

    def _recreated_error(self, how: str) -> DamagedError:
        return DamagedError(
            f"The topic {self._topic} was deleted and created again after the stream had read from it: {how}.",
            remedy="Restore it, or start with the messages that it has by `forecache stream NAME --skip-lost`.",
        )

    def refuse_other_topic(self) -> None:
        raise self._recreated_error(f"its identity is {self.topic_id}")

    def read(self, wait_s: float) -> pa.Table | None:
        """Read a batch of messages, `forecache.stream.table.schema.MESSAGES`; None if there are none.

        It waits up to `wait_s` for the first message, then up to `linger_s` for a full batch. DamagedError if messages
        that were not read yet are lost.
        """
        if time.monotonic() >= self._look_again:
            self._assign_partitions()
        first = self._consumer.poll(wait_s)
        if first is None:
            return None
        received: list[Any] = [first, *self._consumer.consume(self._batch - 1, self._linger_s)]
        now_us = time.time_ns() // 1000
        rows = [row for message in received if (row := self._to_row(message)) is not None]
        if not rows:
            return None
        self._failure = ""
        partitions, offsets, times, values = zip(*rows, strict=True)
        columns = (partitions, offsets, times, [now_us] * len(rows), values)
        return pa.table([pa.array(each, field.type) for each, field in zip(columns, MESSAGES, strict=True)], MESSAGES)

    def _to_row(self, message: Any) -> tuple[int, int, int, bytes | None] | None:
        error = message.error()
        if error is not None:
            self._handle_error(message, error)
            return None
        partition, offset = message.partition(), message.offset()
        if offset < self.next[partition]:
            return None
        self.next[partition] = offset + 1
        return partition, offset, max(0, message.timestamp()[1]) * 1000, message.value()

    def _handle_error(self, message: Any, error: Any) -> None:
        from confluent_kafka import KafkaError

        if error.code() == KafkaError._PARTITION_EOF:
            # Transaction markers after the last message are never delivered, and count as read.
            partition = message.partition()
            self.next[partition] = max(self.next[partition], message.offset())
        elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise self._lost_messages_error(message.partition())
        elif error.code() in (
            KafkaError.UNKNOWN_TOPIC_OR_PART,
            KafkaError._UNKNOWN_PARTITION,
            KafkaError._UNKNOWN_TOPIC,
        ):
            raise self._no_topic_error()
        else:
            self._note_failure(f"The topic {self._topic} cannot be read: {error.str()}.")

    def _lost_messages_error(self, partition: int) -> DamagedError:
        from confluent_kafka import KafkaException, TopicPartition

        offset = self.next[partition]
        try:
            low, high = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), _TIMEOUT_S)
        except KafkaException as error:
            raise unreachable_error(self._settings, f"The topic {self._topic} cannot be read", error) from error
        if offset < low:
            return self._expired_error(partition, offset, low)
        return self._recreated_error(
            f"partition {partition} ends at offset {high}, and the stream has read up to {offset}"
        )

    def _note_client_error(self, error: Any) -> None:
        self._note_failure(f"Kafka is not reachable: {error.str()}.")

    def _note_failure(self, sentence: str) -> None:
        self._failure, self._failed_at = sentence, time.monotonic()

    @property
    def failure(self) -> str:
        """The error of the last ten seconds, "" if there was none: the client reports a lasting error repeatedly."""
        return self._failure if time.monotonic() < self._failed_at + _LASTS_S else ""

    def end_offsets(self) -> dict[int, int]:
        """Return by partition the offset after its last message, from the client's cache.

        Only for the thread that reads: another one would wait until `read` returns.
        """
        from confluent_kafka import TopicPartition

        for partition, before in self._ends_at.items():
            _, high = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), cached=True)
            self._ends_at[partition] = max(before, high, self.next[partition])
        return dict(self._ends_at)

    def close(self) -> None:
        self._consumer.close()


def open_topic(
    settings: Settings, stream: Stream, writer: StreamWriter, *, skip_lost: bool, batch: int = 1, linger_s: float = 0.0
) -> TopicReader:
    """Open the topic at the table's offsets, if it is still the same topic; raises as `TopicReader`.

    Lost messages are an error, or are skipped for good if `skip_lost`. The writer's `topic_id` is set.
    """
    topic = stream.topic.topic

    def open_reader(start: dict[int, int]) -> TopicReader:
        return TopicReader(
            settings, topic, start, batch=batch, linger_s=linger_s, skip_lost=skip_lost, shard=writer.shard,
            partitions=writer.partitions if stream.shards > 1 else 0,
        )  # fmt: skip

    reader = open_reader(writer.offsets)
    try:
        writer.topic_id = reader.topic_id
        is_other = not writer.is_known_topic()
        if is_other and not skip_lost:
            reader.refuse_other_topic()
        if is_other:
            reader.close()
            reader = open_reader({})
        if skip_lost and writer.offsets:
            gone = {partition: 0 for partition in writer.offsets if partition not in reader.next}
            upto = {**gone, **reader.next}
            logger.warning("The stream %s goes on at %s, and was at %s.", stream.name, upto, writer.offsets)
            writer.write(CommitBatch(schema_of(stream).empty_table(), QUARANTINE.empty_table(), upto), resets=True)
    except BaseException:
        reader.close()
        raise
    return reader
