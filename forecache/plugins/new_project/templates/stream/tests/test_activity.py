"""Messages have the columns of the source, and the stream updates the live view."""

import json
from datetime import datetime, timezone

from new_project.landing import orders_of
from new_project.orders import ORDERS
from new_project.pipelines.activity import activity, order_stream
from new_project.send import message_of


def test_a_message_has_the_columns_of_the_source() -> None:
    order_id, customer, item, amount, _ = orders_of(0)[0]
    message = json.loads(message_of(order_id, customer, item, amount, datetime(2026, 1, 31, 12, tzinfo=timezone.utc)))
    assert list(message) == [column.name for column in ORDERS.columns]
    assert message["ordered_at"] == "2026-01-31T12:00:00+00:00"


def test_the_stream_updates_the_view() -> None:
    assert order_stream.views == (activity,)
    assert order_stream.source == ORDERS
