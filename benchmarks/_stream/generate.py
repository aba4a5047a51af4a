"""Sends payments to a topic at a constant rate, whatever becomes of them (an open loop); prints what it did as JSON.

Says READY when the messages are made, and waits until the traffic begins.
Usage: python -m _stream.generate BROKERS TOPIC TRAFFIC (as JSON)
"""

import json
import sys
import time
from typing import Any

import numpy as np
from confluent_kafka import KafkaError, Producer

from _stream.traffic import Traffic

_TICK_S = 0.001
_FLUSH_S = 600.0


def producer(brokers: str, failed: list[str]) -> Producer:
    """One that gives up on no message while a broker is away, and keeps their order."""

    def note(error: KafkaError | None, _: Any) -> None:
        if error is not None:
            failed.append(str(error))

    return Producer(
        {
            "bootstrap.servers": brokers,
            "enable.idempotence": True,
            "linger.ms": 5,  # the default of Kafka's own producer
            "message.timeout.ms": int(_FLUSH_S * 1000),
            "queue.buffering.max.messages": 5_000_000,
            "queue.buffering.max.kbytes": 1 << 20,
            "delivery.report.only.error": True,
            "on_delivery": note,
            # A broker that comes back is noticed soon.
            "reconnect.backoff.ms": 20,
            "reconnect.backoff.max.ms": 200,
            "log_level": 2,
        }
    )


def send(brokers: str, topic: str, traffic: Traffic, ready: Any = None) -> dict[str, Any]:
    """Send all payments when they are due; how late it was itself, in ms, and what failed."""
    failed: list[str] = []
    kafka = producer(brokers, failed)
    kafka.list_topics(topic, timeout=30)
    messages = list(traffic.messages())
    if ready is not None:
        ready()
    late: list[float] = []
    begin, sent, handed_over = traffic.begin_us / 1e6, 0, 0
    time.sleep(max(0.0, begin - time.time()))
    while sent < traffic.count:
        due = max(sent, min(int((time.time() - begin) * traffic.rate) + 1, traffic.count))
        if due > sent:
            late.append(time.time() - begin - sent / traffic.rate)
        for key, value in messages[sent:due]:
            kafka.produce(topic, value, key)
            handed_over += 1
        sent = due
        kafka.poll(0)
        time.sleep(_TICK_S)
    ended = time.time()
    left = kafka.flush(_FLUSH_S)
    return {
        "sent": handed_over,
        "undelivered": left + len(failed),
        "failed": failed[:3],
        "late_p99_ms": float(np.quantile(late, 0.99) * 1e3),
        "late_max_ms": max(late) * 1e3,
        "flush_s": time.time() - ended,
    }


if __name__ == "__main__":
    outcome = send(
        sys.argv[1], sys.argv[2], Traffic(**json.loads(sys.argv[3])), ready=lambda: print("READY", flush=True)
    )
    print("RESULT " + json.dumps(outcome))
