"""The events of a landed day with the columns of a stream's messages."""

from datetime import date, datetime, timezone

import pyarrow as pa
import pyarrow.compute as pc

from forecache.base.errors import InputError
from forecache.base.settings import Settings
from forecache.declare import Stream
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.log import open_if_exists
from forecache.kit.delta.tables import open_table
from forecache.stream.table_schema import (
    EVENT_DAY,
    KAFKA_AT,
    OFFSET,
    PARTITION,
    RECEIVED_AT,
    event_fields,
)

LANDED = -1
"""Kafka partition of rows that come from the lake; Kafka's own are not below 0."""
_DAYS_APART = 10**10
_EPOCH = date(1970, 1, 1)


def read_landed_events(settings: Settings, stream: Stream, day: date) -> pa.Table:
    """Read the events of a day from the raw table, sorted by event time and `unique` columns.

    Their partition is -1, their offset 10^10 times the days since 1970 plus their place in the day.

    Raises:
        InputError: The day has not been ingested.
        NotFoundError: The source has no raw table.
    """
    source, fields = stream.source, event_fields(stream.topic)
    dataset = open_dataset(open_table(settings, source.raw_table), partitions=[(EVENT_DAY, "=", day.isoformat())])
    rows = dataset.to_table(columns=[field.name for field in fields])
    if not rows.num_rows:
        raise InputError(
            f"The source {source.name!r} has no rows of {day}.", remedy=f"Run `forecache ingest --day {day}` first."
        )
    rows = rows.sort_by([(name, "ascending") for name in (source.event_time, *source.unique)])
    n, now = rows.num_rows, datetime.now(timezone.utc)
    first, moment = (day - _EPOCH).days * _DAYS_APART, pa.timestamp("us", tz="UTC")
    made = {
        PARTITION: pa.array([LANDED] * n, pa.int32()),
        OFFSET: pa.array(range(first, first + n), pa.int64()),
        KAFKA_AT: pa.nulls(n, moment),
        EVENT_DAY: pa.array([day] * n, pa.date32()),
        RECEIVED_AT: pa.array([now] * n, moment),
    }
    return pa.table({**made, **{field.name: rows[field.name].cast(field.type) for field in fields}})


def drop_known_events(settings: Settings, stream: Stream, day: date, events: pa.Table) -> pa.Table:
    """Leave out the events of a day that the stream's table has, from Kafka or from an earlier backfill."""
    delta, unique = open_if_exists(settings, stream.table), list(stream.source.unique)
    if delta is None:
        return events
    there = open_dataset(delta).to_table(columns=unique, filter=pc.field(EVENT_DAY) == pa.scalar(day))
    place = "place_in_day"
    numbered = events.append_column(place, pa.array(range(events.num_rows), pa.int64()))
    left = numbered.select([*unique, place]).join(there, keys=unique, join_type="left anti")
    return events.take(left[place].combine_chunks().sort())
