"""The payments of `stream_sample` as messages in Avro."""

import io
import json
from datetime import datetime
from functools import cache
from typing import Any

from stream_sample import PAYMENTS, payment

from forecache.declare import Avro, Topic

SCHEMA = {
    "type": "record", "name": "payment", "fields": [
        {"name": "payment_id", "type": "long"},
        {"name": "customer_id", "type": ["null", "long"]},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "amount", "type": "double"},
        {"name": "shop", "type": ["null", "string"]},
    ],
}  # fmt: skip


def avro_topic(name: str) -> Topic:
    return Topic("payments", topic=name, source=PAYMENTS, format=Avro(json.dumps(SCHEMA)))


def avro_payment(number: int, **values: Any) -> bytes:
    """The message that `stream_sample.payment` makes, in Avro."""
    import fastavro

    record = json.loads(payment(number, **values))
    record["at"] = datetime.fromisoformat(record["at"].replace("Z", "+00:00"))
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, _parsed(), record)
    return stream.getvalue()


@cache
def _parsed() -> Any:
    import fastavro

    return fastavro.parse_schema(json.loads(json.dumps(SCHEMA)))


AVRO_POISON: tuple[bytes | None, ...] = (
    None,
    b"",
    b"\xff" * 20,
    avro_payment(1)[:-1],
    avro_payment(1) + b"x",
    avro_payment(900, amount=-1.0),
    avro_payment(902, at="2999-01-01T00:00:00Z"),
    avro_payment(903, customer_id=None),
)
