"""Sends bad messages unchanged to a topic of their own, `<topic>-dead-letters`.

A dead letter is sent before the offsets after it are committed. After a crash it may be sent again with the same key,
`<topic>-<partition>-<offset>`.
"""

from typing import Any

import pyarrow as pa

from forecache.base.settings import Settings
from forecache.stream.kafka.client import client_options, create_topic, unreachable_error
from forecache.stream.table_schema import OFFSET, PARTITION

SUFFIX = "-dead-letters"
_TIMEOUT_S = 30.0


class DeadLetters:
    """Sends the bad messages of a topic; connects when the first one is sent."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self._settings, self._source, self.topic = settings, topic, topic + SUFFIX
        self._producer: Any = None

    def send(self, bad: pa.Table) -> None:
        """Send messages, and return when the brokers have them.

        Args:
            bad: `forecache.stream.table_schema.QUARANTINE`.

        Raises:
            UnavailableError: The brokers do not accept them.
        """
        if not bad.num_rows:
            return
        producer, failed = self._connect(), list[Any]()
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
            raise unreachable_error(
                self._settings, f"Bad messages cannot be sent to {self.topic}", failed[0] if failed else "no answer"
            )

    def _connect(self) -> Any:
        from confluent_kafka import Producer

        if self._producer is None:
            create_topic(self._settings, self.topic, partitions=1, timeout_s=_TIMEOUT_S)
            options = client_options(self._settings)
            self._producer = Producer(
                {**options, "enable.idempotence": True, "linger.ms": 5, "delivery.timeout.ms": int(_TIMEOUT_S * 1000)}
            )
        return self._producer
