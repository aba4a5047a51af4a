"""A stream of payments in several shards: its messages by partition, and what its tables have to hold of each."""

import json
from collections.abc import Sequence
from typing import Any

from stream_sample import PAYMENTS, table_rows
from stream_truth import answered, plain

from forecache.base.settings import Settings
from forecache.declare import Topic
from forecache.stream.table.schema import OFFSET, PARTITION

PARTITIONS = 4
SHARDED: dict[str, Any] = {"shards": 4}
Sent = dict[int, list[bytes | None]]
"""What was sent to each partition."""


def keyed_topic(topic: str) -> Topic:
    """The topic of payments, whose messages lie in partitions by customer."""
    return Topic("payments", topic=topic, source=PAYMENTS, key=("customer_id",))


def send(kafka: Any, topic: str, values: Sequence[bytes | None], sent: Sent) -> None:
    """Send messages to the partition of their customer; what has none goes round."""
    by_partition: Sent = {partition: [] for partition in range(PARTITIONS)}
    for number, value in enumerate(values):
        try:
            customer = json.loads(value or b"").get("customer_id")
        except (ValueError, AttributeError):
            customer = None
        by_partition[(number if customer is None else customer) % PARTITIONS].append(value)
    for partition, some in by_partition.items():
        kafka.send(topic, some, partition=partition)
        sent.setdefault(partition, []).extend(some)


def assert_partitions_hold(settings: Settings, sent: Sent, topic: str, **declared: Any) -> list[dict[str, Any]]:
    """Compare both tables with what the messages of each partition come to by themselves; returns the rows."""
    stored = table_rows(settings, "stream_payments")
    bad = table_rows(settings, "stream_quarantine_payments")
    for partition, values in sent.items():
        rows, refused = answered(settings, values, topic=keyed_topic(topic), **{**SHARDED, **declared})
        for expected, there in ((rows, stored), (refused, bad)):
            of_partition = sorted((row for row in there if row[PARTITION] == partition), key=lambda row: row[OFFSET])
            assert [plain(row) for row in of_partition] == [{**row, PARTITION: partition} for row in expected]
        in_order = [row for row in stored if row[PARTITION] == partition]
        assert [row[OFFSET] for row in in_order] == sorted(row[OFFSET] for row in in_order)
    assert {row[PARTITION] for row in [*stored, *bad]} <= sent.keys()
    places = {(row["position"], row["place"]) for row in stored}
    assert len(places) == len(stored)
    return stored
