"""Messages that are no events, as they came, in a topic of their own: `<topic>-dead-letters`.

A dead letter is sent before the offsets behind it are committed. After a crash it may be sent again, with the same key,
which says where the message stood: `<topic>-<partition>-<offset>`.
"""

from typing import Any

import pyarrow as pa

from forecache.errors import UnavailableError
from forecache.settings import Settings
from forecache.stream.kafka.client import client_options, unreachable
from forecache.stream.record import OFFSET, PARTITION

SUFFIX = "-dead-letters"
_TIMEOUT_S = 30.0


class DeadLetters:
    """Sends the bad messages of a topic; connects at the first."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self._settings, self._source, self.topic = settings, topic, topic + SUFFIX
        self._producer: Any = None

    def send(self, bad: pa.Table) -> None:
        """Send messages, and return when the brokers have them.

        Args:
            bad: `forecache.stream.record.QUARANTINE`.

        Raises:
            UnavailableError: The brokers do not take them.
        """
        if not bad.num_rows:
            return
        producer, failed = self._connected(), list[Any]()
        columns = (bad[name].to_pylist() for name in (PARTITION, OFFSET, "reason", "content"))
        for partition, offset, reason, content in zip(*columns, strict=True):
            key = f"{self._source}-{partition}-{offset}".encode()
            while True:
                try:
                    producer.produce(
                        self.topic, content, key, headers={"reason": reason.encode()},
                        on_delivery=lambda error, _: failed.append(error) if error is not None else None,
                    )  # fmt: skip
                    break
                except BufferError:
                    producer.poll(0.1)
        left = producer.flush(_TIMEOUT_S)
        if failed or left:
            producer.purge()
            raise unreachable(
                self._settings, f"Bad messages cannot be sent to {self.topic}", failed[0] if failed else "no answer"
            )

    def _connected(self) -> Any:
        from confluent_kafka import Producer

        if self._producer is None:
            options = client_options(self._settings)
            self._create(options)
            self._producer = Producer(
                {**options, "enable.idempotence": True, "linger.ms": 5, "delivery.timeout.ms": int(_TIMEOUT_S * 1000)}
            )
        return self._producer

    def _create(self, options: dict[str, Any]) -> None:
        """Make the topic where there is none: clusters make none by themselves."""
        from confluent_kafka import KafkaError, KafkaException
        from confluent_kafka.admin import AdminClient, NewTopic

        admin = AdminClient(options)
        try:
            if self.topic not in admin.list_topics(timeout=_TIMEOUT_S).topics:
                admin.create_topics([NewTopic(self.topic, 1, -1)])[self.topic].result(_TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return
            raise UnavailableError(
                f"The topic {self.topic} for bad messages cannot be made: {error.args[0].str()}.",
                remedy="Make it by hand, or let this user make topics.",
            ) from error
