"""A real Kafka broker for tests: one for each worker of pytest, topics of their own for each test.

`kafka` is in `pytest_plugins` of tests/conftest.py. The broker starts when the first test asks for it.
"""

import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port

_SCRIPT = Path(__file__).parents[2] / "scripts" / "kafka.sh"
_READY_S = 120.0


class KafkaBroker:
    """A broker of one process.

    Attributes:
        brokers: What clients take as `bootstrap.servers`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self.brokers = f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it and wait until it has taken its place: it answers questions about topics.

        Raises:
            CalledProcessError: It did not start; its log is in the message above.
        """
        self._script("start", str(self._port))
        deadline = time.monotonic() + _READY_S
        while not self._admin().list_topics(timeout=_READY_S).brokers:
            if time.monotonic() > deadline:
                raise TimeoutError(f"The broker at {self.brokers} listens and has not joined its cluster.")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it as an operator does: what it was sent is on disk."""
        self._script("stop")

    def kill(self) -> None:
        """End it by SIGKILL, and return when it is gone."""
        self._script("kill")

    def restart(self) -> None:
        """Start it again at the same port with the topics that it had."""
        self.start()

    def create_topic(self, name: str = "", *, partitions: int = 1, settings: Mapping[str, str] | None = None) -> str:
        """A new topic; returns its name, which begins with `name` and no other test has."""
        from confluent_kafka.admin import NewTopic

        topic = f"{name or 'topic'}-{uuid.uuid4().hex[:8]}"
        wanted = NewTopic(topic, num_partitions=partitions, replication_factor=1, config=dict(settings or {}))
        admin = self._admin()  # what it is asked for ends with it
        admin.create_topics([wanted])[topic].result(timeout=30)
        return topic

    def send(self, topic: str, values: Sequence[bytes | None], *, partition: int = -1, **options: Any) -> None:
        """Send messages in this order and wait until the broker has them all."""
        from confluent_kafka import Producer

        producer = Producer(
            {"bootstrap.servers": self.brokers, "enable.idempotence": True, "linger.ms": 5, "log_level": 2, **options}
        )
        failed: list[Any] = []
        for value in values:
            while True:
                try:
                    producer.produce(
                        topic, value, partition=partition, on_delivery=lambda error, _: error and failed.append(error)
                    )
                    break
                except BufferError:
                    producer.poll(0.1)
        left = producer.flush(120)
        assert not left, f"{left} messages were not delivered in two minutes"
        assert not failed, failed[0]

    def messages(self, topic: str, *, committed_only: bool = True) -> list[Any]:
        """All messages of a topic, partition by partition in the order of their offsets."""
        from confluent_kafka import Consumer, TopicPartition

        level = "read_committed" if committed_only else "read_uncommitted"
        consumer = Consumer(
            {
                "bootstrap.servers": self.brokers, "group.id": uuid.uuid4().hex, "enable.auto.commit": False,
                "isolation.level": level, "enable.partition.eof": True,
            }
        )  # fmt: skip
        found = []
        try:
            for partition in sorted(consumer.list_topics(topic, timeout=30).topics[topic].partitions):
                consumer.assign([TopicPartition(topic, partition, 0)])
                while True:
                    message = consumer.poll(120)
                    assert message is not None, f"Partition {partition} of {topic} does not end within 120 s"
                    if message.error():
                        break  # the end of the partition
                    found.append(message)
        finally:
            consumer.close()
        return found

    def _script(self, action: str, *arguments: str) -> None:
        subprocess.run(["bash", str(_SCRIPT), action, str(self._folder), *arguments], check=True)

    def _admin(self) -> Any:
        from confluent_kafka.admin import AdminClient

        return AdminClient({"bootstrap.servers": self.brokers, "log_level": 2})


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """The broker of this worker. A test that kills it has to start it again before it ends."""
    broker = KafkaBroker(tmp_path_factory.mktemp("kafka"))
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()
