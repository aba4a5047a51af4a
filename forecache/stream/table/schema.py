"""Schemas of a stream: its table, its quarantine, and the messages that both are made from.

A stream is ordered by `position` and `place` of the rows in its table. The answers of a row depend on the rows before
it in this order and on the batch states that `base` names, never on how events were batched.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from forecache.declare import Pipeline, Realtime
from forecache.declare.streams.stream import FEATURES

POSITION, PLACE, HOUR, EVENT_DAY, RECEIVED_AT = "position", "place", "hour", "event_day", "received_at"
PARTITION, OFFSET, KAFKA_AT = "kafka_partition", "kafka_offset", "kafka_at"
MODEL_VERSION, RELEASE, BASE, LATE, RUNG = "model_version", "release", "base", "late", "rung"

_MOMENT = pa.timestamp("us", tz="UTC")
MESSAGES = pa.schema(
    [(PARTITION, pa.int32()), (OFFSET, pa.int64()), (KAFKA_AT, _MOMENT), (RECEIVED_AT, _MOMENT), ("value", pa.binary())]
)
"""Messages from Kafka in the order in which they were read; `value` is null if a message has none."""

IN_FRONT = (
    pa.field(POSITION, pa.int64()),
    pa.field(PLACE, pa.int32()),
    pa.field(PARTITION, pa.int32()),
    pa.field(OFFSET, pa.int64()),
    pa.field(KAFKA_AT, _MOMENT),
    pa.field(HOUR, pa.string()),
    pa.field(EVENT_DAY, pa.date32()),
    pa.field(RECEIVED_AT, _MOMENT),
)
"""The columns before those of the topic.

position: Delta version of the commit that wrote the row.
place: Place of the row in that commit, from 0.
kafka_partition, kafka_offset, kafka_at: Partition, offset and timestamp of the message in Kafka.
hour: Hour of the commit in UTC, such as `2026-03-01T08`; the table is partitioned by it, so that past hours get no more
    rows.
event_day: The date of the event in UTC.
received_at: When the engine read the message.
"""
BEHIND = (
    pa.field(MODEL_VERSION, pa.int64()),
    pa.field(RELEASE, pa.int64()),
    pa.field(BASE, pa.string()),
    pa.field(LATE, pa.bool_()),
)
"""The columns after the answer's.

model_version, release: The model version and release that answered; null if there is none.
base: For each live view, in declared order, the batch state that its features are merged with, as
    `<view>=<as_of>@<delta_version>` of the view's table, or `<view>=` before the first; joined by ",".
late: True if a nightly run had processed the event's day already.
"""
KEPT_FEATURES = pa.field(FEATURES, pa.list_(pa.float32()))
"""Of a stream with `keep_features`: the inputs of the model, NaN for an unknown value; null if the transform failed,
and in rows from before `keep_features` was declared.
"""
QUARANTINE = pa.schema(
    [
        (PARTITION, pa.int32()),
        (OFFSET, pa.int64()),
        ("reason", pa.string()),
        ("content", pa.binary()),
        (RECEIVED_AT, _MOMENT),
    ]
)
"""Bad messages: partition and offset, the reason, and their bytes."""
QUARANTINE_TABLE = QUARANTINE.append(pa.field(HOUR, pa.string()))
"""The columns of the quarantine's table, which is partitioned by the hour of the commit as well."""

ARROW_TYPES = {
    "string": pa.string(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "double": pa.float64(),
    "date": pa.date32(),
    "timestamp": _MOMENT,
    "boolean": pa.bool_(),
}
"""Arrow types by the declared type of a source's column."""


def transaction_name(name: str, partition: int) -> str:
    """Application id of Delta's `txn` action for a partition in both tables; its version is the next offset to read."""
    return f"forecache-stream-{name}-{partition}"


def event_fields(topic: Any) -> list[pa.Field]:
    """The columns of a topic as Arrow fields."""
    return [pa.field(column.name, ARROW_TYPES[column.type]) for column in topic.columns]


def schema_of(stream: Any) -> pa.Schema:
    """All columns of a stream's table, in order."""
    features = [KEPT_FEATURES] if stream.keep_features else []
    return pa.schema([*IN_FRONT, *event_fields(stream.topic), *output_fields(stream.answers), *features, *BEHIND])


def output_fields(answers: Any) -> list[pa.Field]:
    """The columns of an answer: the outputs of a pipeline, or a real-time model's output and its rung (fallback)."""
    if isinstance(answers, Realtime):
        return [pa.field(answers.output, pa.float64()), pa.field(RUNG, pa.string())]
    if isinstance(answers, Pipeline):
        specs = [field for output in answers.output_specs for field in output.arrow_fields]
        return [*specs, *(pa.field(segment.name, pa.string()) for segment in answers.segments)]
    return []


def add_missing_columns(rows: pa.Table, names: Sequence[str]) -> pa.Table:
    """Add missing columns as nulls, such as those that messages do not have yet."""
    for name in names:
        if name not in rows.column_names:
            rows = rows.append_column(name, pa.nulls(rows.num_rows, pa.float64()))
    return rows
