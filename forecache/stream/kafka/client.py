"""Kafka clients of a stream: options, errors of unreachable brokers, topics, and dead letters."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from forecache.base.errors import ForecacheError, UnavailableError
from forecache.base.settings import Settings
from forecache.stream.table.schema import OFFSET, PARTITION

SUFFIX = "-dead-letters"
_TIMEOUT_S = 30.0


def client_options(settings: Settings) -> dict[str, Any]:
    """Return the options for a client of confluent-kafka, secrets included; SettingsError in a trial."""
    settings.refuse_in_trial("read from Kafka or send to it")
    return {
        "bootstrap.servers": settings.kafka_brokers,
        "log_level": 2,  # failed connections are reported once, in the stream's state, not at each attempt
        "reconnect.backoff.max.ms": 2_000,
        **settings.kafka_options,
    }


def unreachable_error(settings: Settings, what: str, error: Any) -> ForecacheError:
    """Return the error of a broker that does not answer, given what failed: "The topic payments cannot be read"."""
    about = error.args[0] if getattr(error, "args", None) else error
    told = about.str() if hasattr(about, "str") else str(about)
    return UnavailableError(
        f"{what}: {told} (brokers: {settings.kafka_brokers}).",
        remedy="Start the broker, or correct FORECACHE_KAFKA_BROKERS and FORECACHE_KAFKA_OPTIONS.",
    )


def find_topics(settings: Settings, *, timeout_s: float) -> set[str]:
    """The names of all topics; UnavailableError if no broker answers."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    try:
        return set(AdminClient(client_options(settings)).list_topics(timeout=timeout_s).topics)
    except KafkaException as error:
        raise unreachable_error(settings, "The topics cannot be listed", error) from error


def create_topic(
    options: Mapping[str, Any], topic: str, *, partitions: int = -1, config: Mapping[str, str] | None = None,
    timeout_s: float, by_hand: str = "",
) -> bool:  # fmt: skip
    """Create a topic unless it exists, and return whether; clusters usually create none by themselves.

    Replicas, and partitions of -1, are the broker's default. UnavailableError if no broker answers, or this user may
    not create topics.
    """
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient(dict(options))
    try:
        if topic in admin.list_topics(timeout=timeout_s).topics:
            return False
        admin.create_topics([NewTopic(topic, partitions, -1, config=dict(config or {}))])[topic].result(timeout_s)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        raise UnavailableError(
            f"The topic {topic} cannot be created: {error.args[0].str()} (brokers: {options['bootstrap.servers']}).",
            remedy=f"Create it by hand{by_hand}, or allow this user to create topics.",
        ) from error
    return True


def produce(producer: Any, topic: str, value: bytes | None, key: bytes, **more: Any) -> None:
    """Queue a message; while the queue is full, wait."""
    while True:
        try:
            producer.produce(topic, value, key, **more)
            return
        except BufferError:
            producer.poll(0.1)


class DeadLetters:
    """Sends the bad messages of a topic unchanged to `<topic>-dead-letters`; connects when the first one is sent.

    A dead letter is sent before the offsets after it are committed. After a crash it may be sent again with the same
    key, `<topic>-<partition>-<offset>`.
    """

    def __init__(self, settings: Settings, topic: str) -> None:
        self._settings, self._source, self.topic = settings, topic, topic + SUFFIX
        self._producer: Any = None

    def send(self, bad: pa.Table) -> None:
        """Send messages of the schema QUARANTINE, and return when the brokers have them; else UnavailableError."""
        if not bad.num_rows:
            return
        producer, failed = self._connect(), list[Any]()
        columns = (bad[name].to_pylist() for name in (PARTITION, OFFSET, "reason", "content"))
        for partition, offset, reason, content in zip(*columns, strict=True):
            key = f"{self._source}-{partition}-{offset}".encode()
            produce(
                producer, self.topic, content, key, headers={"reason": reason.encode()},
                on_delivery=lambda error, _: failed.append(error) if error is not None else None,
            )  # fmt: skip
        left = producer.flush(_TIMEOUT_S)
        if failed or left:
            producer.purge()
            raise unreachable_error(
                self._settings, f"Bad messages cannot be sent to {self.topic}", failed[0] if failed else "no answer"
            )

    def _connect(self) -> Any:
        from confluent_kafka import Producer

        if self._producer is None:
            options = client_options(self._settings)
            create_topic(options, self.topic, partitions=1, timeout_s=_TIMEOUT_S)
            self._producer = Producer(
                {**options, "enable.idempotence": True, "linger.ms": 5, "delivery.timeout.ms": int(_TIMEOUT_S * 1000)}
            )
        return self._producer
