"""Options of every Kafka client of a stream, errors of unreachable brokers, and creation and identity of topics."""

from collections.abc import Mapping
from typing import Any

from forecache.base.errors import ForecacheError, UnavailableError
from forecache.base.settings import Settings


def client_options(settings: Settings) -> dict[str, Any]:
    """Options for a client of confluent-kafka, secrets included."""
    return {
        "bootstrap.servers": settings.kafka_brokers,
        "log_level": 2,  # failed connections are reported once, in the stream's state, not at each attempt
        "reconnect.backoff.max.ms": 2_000,
        **settings.kafka_options,
    }


def unreachable_error(settings: Settings, what: str, error: Any) -> ForecacheError:
    """The error of a broker that does not answer.

    Args:
        what: What was tried, such as "The topic payments cannot be read".
        error: A `KafkaException` or `KafkaError`.
    """
    about = error.args[0] if getattr(error, "args", None) else error
    told = about.str() if hasattr(about, "str") else str(about)
    return UnavailableError(
        f"{what}: {told} (brokers: {settings.kafka_brokers}).",
        remedy="Start the broker, or correct FORECACHE_KAFKA_BROKERS and FORECACHE_KAFKA_OPTIONS.",
    )


def look_up_topic_id(options: Mapping[str, Any], topic: str, *, timeout_s: float) -> str:
    """Look up Kafka's id of a topic, which changes if it is deleted and created again; "" if the broker is too old.

    Raises:
        KafkaException: The broker does not answer.
    """
    from confluent_kafka import TopicCollection
    from confluent_kafka.admin import AdminClient

    admin = AdminClient(dict(options))  # kept until it has answered
    future = admin.describe_topics(TopicCollection([topic]), request_timeout=timeout_s)[topic]
    found = getattr(future.result(timeout_s + 1), "topic_id", None)
    return "" if found is None else str(found)


def create_topic(settings: Settings, topic: str, *, partitions: int = -1, timeout_s: float) -> bool:
    """Create a topic unless it exists; clusters usually create none by themselves.

    Args:
        partitions: Their number; -1: the broker's default. Replicas are the broker's default.

    Returns:
        True if this call created it.

    Raises:
        UnavailableError: No broker answers, or this user may not create topics.
    """
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient(client_options(settings))
    try:
        if topic in admin.list_topics(timeout=timeout_s).topics:
            return False
        admin.create_topics([NewTopic(topic, partitions, -1)])[topic].result(timeout_s)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        raise UnavailableError(
            f"The topic {topic} cannot be created: {error.args[0].str()} (brokers: {settings.kafka_brokers}).",
            remedy="Create it by hand, or allow this user to create topics.",
        ) from error
    return True
