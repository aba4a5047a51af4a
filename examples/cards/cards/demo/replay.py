"""Sends the payments of a day to their topic, each at its time of the day, at a multiple of the speed of time."""

import json
import time
from collections.abc import Callable, Iterator

from cards.simulator import Payments


def messages(payments: Payments) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of each payment's message, in their order.

    The value has the columns of the topic as JSON; the key is the customer.
    """
    columns = zip(
        payments.ids.tolist(),
        payments.customer.tolist(),
        payments.terminal.tolist(),
        payments.amount.tolist(),
        payments.paid_at.astype(str).tolist(),
        strict=True,
    )
    for transaction, customer, terminal, amount, at in columns:
        event = {
            "transaction_id": transaction,
            "customer_id": customer,
            "terminal_id": terminal,
            "amount": amount,
            "paid_at": f"{at}Z",
        }
        yield str(customer).encode(), json.dumps(event).encode()


def make_topic(brokers: str, topic: str) -> None:
    """Make the topic where it is not there, of one partition: all payments are in the order of time."""
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient, NewTopic

    client = AdminClient({"bootstrap.servers": brokers})  # what it does ends with it
    made = client.create_topics([NewTopic(topic, 1, 1)])
    try:
        made[topic].result(30)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise


def send(
    brokers: str, topic: str, payments: Payments, *, speed: float, sent: Callable[[int, float], None] = lambda *_: None
) -> float:
    """Send a day; returns how many seconds it took.

    Args:
        speed: 1,000: a day takes 86.4 seconds.
        sent: Called with the place of a payment in the day and the moment, `time.monotonic()`, at which it was sent.
    """
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": brokers, "linger.ms": 1, "acks": "all"})
    started = time.monotonic()
    due = started + payments.second / speed
    for place, (key, value) in enumerate(messages(payments)):
        while (left := due[place] - time.monotonic()) > 0:
            producer.poll(min(left, 0.1))
        producer.produce(topic, value, key)
        sent(place, time.monotonic())
        producer.poll(0)
    producer.flush(30)
    return time.monotonic() - started
