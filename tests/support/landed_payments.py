"""Landed days of the sample's payments, and a night of its view, in tables of a lake."""

import json
import random
from collections.abc import Sequence
from datetime import date, datetime, timezone
from typing import Any

import pyarrow as pa
from stream_sample import CUSTOMER, PAYMENTS, a_stream

from forecache.base.settings import Settings
from forecache.declare import AS_OF
from forecache.declare.streams.merge_plan import build_merge_plan
from forecache.stream.table.schema import EVENT_DAY, event_fields


def land_payments(settings: Settings, day: date, values: Sequence[bytes]) -> None:
    """Append payments, given as messages of the topic, to the raw table as rows of a day."""
    from deltalake import write_deltalake

    fields = event_fields(a_stream().topic)
    rows = [json.loads(value) for value in values]
    for row in rows:
        row["at"] = datetime.fromisoformat(row["at"].replace("Z", "+00:00")).astimezone(timezone.utc)
    columns = {field.name: pa.array([row[field.name] for row in rows], field.type) for field in fields}
    table = pa.table({**columns, EVENT_DAY: pa.array([day] * len(rows), pa.date32())})
    write_deltalake(settings.table_uri(PAYMENTS.raw_table), table, mode="append", partition_by=[EVENT_DAY])


def make_night(settings: Settings, as_of: date, customers: Sequence[int], *, seed: int = 1) -> None:
    """Append a night of the view with made-up states of some customers."""
    from deltalake import write_deltalake

    dice, n = random.Random(seed), len(customers)
    states: dict[str, Any] = {}
    for column in build_merge_plan(CUSTOMER).base_columns:
        values = [dice.randrange(1, 5000) for _ in customers]
        states[column.name] = pa.array(values, pa.float64() if column.is_float else pa.int64())
    rows = pa.table(
        {AS_OF: pa.array([as_of] * n, pa.date32()), "customer_id": pa.array(customers, pa.int64()), **states}
    )
    write_deltalake(settings.table_uri(CUSTOMER.feature_table), rows, mode="append", partition_by=[AS_OF])
