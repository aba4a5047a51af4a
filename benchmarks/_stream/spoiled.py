"""Payments as a careless producer sends them: some twice, among messages that are none, in a schema that changes.

Usage: python -m _stream.spoiled BROKERS TOPIC TRAFFIC (as JSON)
"""

import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from _stream.generate import producer
from _stream.traffic import Traffic

_TWICE, _POISON = 0.02, 0.005
_LATEST_REPEAT = 3_000
_TICK_S, _FLUSH_S = 0.002, 900.0
POISON = (
    b"",
    b"not json",
    b"[1, 2]",
    b'{"transaction_id": 1',
    b'{"customer_id":1,"terminal_id":2,"at":"2026-01-01T00:00:00Z","amount":1.0}',
    b'{"transaction_id":-1,"customer_id":"x","terminal_id":2,"at":"2026-01-01T00:00:00Z","amount":1.0}',
    b'{"transaction_id":-2,"customer_id":1,"terminal_id":2,"at":"yesterday","amount":1.0}',
    b'{"transaction_id":-3,"customer_id":1,"terminal_id":2,"amount":1.0}',
    b'{"transaction_id":-4,"customer_id":1,"terminal_id":2,"at":"2026-01-01T00:00:00Z","amount":{"euro":1}}',
    b"\xff\xfe\x00\x01",
)
"""Messages that are no payments, each for another reason."""


@dataclass(frozen=True)
class Message:
    """A message and what it is: "event", "repeat", or "poison"."""

    key: bytes
    value: bytes
    kind: str


def changed(value: bytes, place: float) -> bytes:
    """A payment in the schema of its time: `place` is the share of all payments that were sent before.

    In the second third a column of the source and one that it does not declare are new; in the last third the optional
    column is null, and the members stand in another order.
    """
    if place < 1 / 3:
        return value
    members = json.loads(value)
    if place < 2 / 3:
        return json.dumps({**members, "channel": "web", "device": {"os": 1}}).encode()
    return json.dumps({"channel": None, **dict(reversed(members.items()))}).encode()


def channel_of(place: float) -> str | None:
    """What the column `channel` of a payment has to be."""
    return "web" if 1 / 3 <= place < 2 / 3 else None


def messages(traffic: Traffic) -> Iterator[Message]:
    """The payments in their order, repeats of earlier ones and poison between them."""
    rng = random.Random(traffic.seed)
    later: dict[int, list[tuple[bytes, bytes]]] = {}
    for number, (key, value) in enumerate(traffic.messages()):
        value = changed(value, number / traffic.count)
        yield Message(key, value, "event")
        if rng.random() < _TWICE:
            later.setdefault(number + rng.randrange(_LATEST_REPEAT), []).append((key, value))
        for repeat in later.pop(number, ()):
            yield Message(*repeat, "repeat")
        if rng.random() < _POISON:
            yield Message(key, rng.choice(POISON), "poison")
    for repeats in later.values():
        for repeat in repeats:
            yield Message(*repeat, "repeat")


def send(brokers: str, topic: str, traffic: Traffic, ready: Any = None) -> dict[str, Any]:
    """Send all at the traffic's rate, whatever becomes of the broker; how many of each kind were sent."""
    failed: list[str] = []
    kafka = producer(brokers, failed)
    counts = {"event": 0, "repeat": 0, "poison": 0}
    all_messages = list(messages(traffic))
    if ready is not None:
        ready()
    begin, sent = traffic.begin_us / 1e6, 0
    while sent < len(all_messages):
        due = max(sent, min(int((time.time() - begin) * traffic.rate), len(all_messages)))
        for message in all_messages[sent:due]:
            kafka.produce(topic, message.value, message.key)
            counts[message.kind] += 1
        sent = due
        kafka.poll(0)
        time.sleep(_TICK_S)
    left = kafka.flush(_FLUSH_S)
    return {**counts, "undelivered": left + len(failed), "failed": failed[:3]}


if __name__ == "__main__":
    outcome = send(
        sys.argv[1], sys.argv[2], Traffic(**json.loads(sys.argv[3])), ready=lambda: print("READY", flush=True)
    )
    print("RESULT " + json.dumps(outcome))
