"""End offsets of a topic's partitions, looked up without reading the topic."""

import time

from forecache.settings import Settings
from forecache.stream.kafka.client import client_options

_ENDS_TIMEOUT_S = 2.0
_ENDS_EVERY_S = 1.0


class Ends:
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
