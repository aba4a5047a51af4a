"""Send made-up orders of today to the topic, one each second: `python -m new_project.send [NUMBER]`."""

import json
import sys
import time
from datetime import datetime, timezone

from forecache import load_settings
from new_project.landing import orders_of
from new_project.orders import ORDERS
from new_project.pipelines.activity import AS_THEY_HAPPEN


def message_of(order_id: int, customer: str, item: str, amount: float, at: datetime) -> bytes:
    values = (order_id, customer, item, amount, at.isoformat())
    return json.dumps(dict(zip((column.name for column in ORDERS.columns), values, strict=True))).encode()


def main() -> None:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": load_settings().kafka_brokers})
    number = (datetime.now(timezone.utc).date() - ORDERS.start).days
    for order_id, customer, item, amount, _ in orders_of(number)[: int((sys.argv[1:] or ["10"])[0])]:
        at = datetime.now(timezone.utc)
        producer.produce(AS_THEY_HAPPEN.topic, message_of(order_id, customer, item, amount, at))
        producer.flush()
        print(f"{customer} ordered {item} at {at:%H:%M:%S} UTC")
        time.sleep(1)


if __name__ == "__main__":
    main()
