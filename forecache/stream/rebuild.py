"""What a stream remembers, made again from the rows of its table: today's tiles, and which events were there."""

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pyarrow.compute as pc

from forecache.lake.delta.stream_tables import hour_of
from forecache.pipeline import Stream
from forecache.settings import Settings
from forecache.stream.record import EVENT_DAY, HOUR, RECEIVED_AT, event_fields
from forecache.stream.step.step import Step
from forecache.stream.table.rows import rows_in_order


def rebuild(settings: Settings, stream: Stream, step: Step) -> int:
    """Have a new step take in what it has to remember of the rows in the table; returns how many it has read."""
    today = datetime.now(timezone.utc)
    since = min((step.first_day(name) for name in step.views), default=today.date() + timedelta(days=1))
    received_since = step.first_received(today.date())
    first_hour = hour_of(datetime.combine(received_since, datetime.min.time(), timezone.utc))
    wanted = (pc.field(EVENT_DAY) >= pa.scalar(since)) | (pc.field(HOUR) >= first_hour)
    fields = event_fields(stream.topic)
    columns = [EVENT_DAY, RECEIVED_AT, *(field.name for field in fields)]
    batches = (_whole(rows, fields) for rows in rows_in_order(settings, stream.table, columns, wanted))
    return step.replay(batches, received_since=received_since)


def _whole(rows: pa.Table, fields: Sequence[pa.Field]) -> pa.Table:
    """The rows with the columns that were declared after the table was written last."""
    for field in fields:
        if field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(len(rows), field.type))
    return rows
