"""Schemas of a stream: its table, its quarantine, and the messages that both are made from.

A stream is ordered by `position` and `place` of the rows in its table. The answers of a row depend on the rows before
it in this order and on the batch states that `feature_version` names, never on how events were batched.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from forecache.declare import Pipeline, Realtime
from forecache.declare.stream import FEATURES

POSITION, PLACE, HOUR, EVENT_DAY, RECEIVED_AT = "position", "place", "hour", "event_day", "received_at"
PARTITION, OFFSET, KAFKA_AT = "kafka_partition", "kafka_offset", "kafka_at"
MODEL_VERSION, RELEASE, FEATURE_VERSION, LATE, ANSWERED_BY = (
    "model_version",
    "release",
    "feature_version",
    "late",
    "answered_by",
)

_MOMENT = pa.timestamp("us", tz="UTC")
MESSAGES = pa.schema(
    [(PARTITION, pa.int32()), (OFFSET, pa.int64()), (KAFKA_AT, _MOMENT), (RECEIVED_AT, _MOMENT), ("value", pa.binary())]
)
"""Messages from Kafka in the order in which they were read; `value` is null if a message has none."""

IN_FRONT = (
    pa.field(POSITION, pa.int64()),  # Delta version of the commit that wrote the row
    pa.field(PLACE, pa.int32()),  # of the row in that commit, from 0
    pa.field(PARTITION, pa.int32()),
    pa.field(OFFSET, pa.int64()),
    pa.field(KAFKA_AT, _MOMENT),  # timestamp of the message in Kafka
    pa.field(HOUR, pa.string()),  # of the commit in UTC, such as `2026-03-01T08`: past partitions get no more rows
    pa.field(EVENT_DAY, pa.date32()),  # in UTC
    pa.field(RECEIVED_AT, _MOMENT),  # when the engine read the message
)
"""The columns before those of the topic."""
BEHIND = (
    pa.field(MODEL_VERSION, pa.int64()),  # that answered; null if there is none
    pa.field(RELEASE, pa.int64()),  # that answered; null if there is none
    # For each live view, in declared order, the batch state that its features are merged with, joined by ",":
    # `<view>=<as_of>@<delta_version>` of the view's table, or `<view>=` before the first.
    pa.field(FEATURE_VERSION, pa.string()),
    pa.field(LATE, pa.bool_()),  # a nightly run had processed the event's day already
)
"""The columns after the answer's."""
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


@dataclass(frozen=True)
class Shard:
    """A part of a stream that has one engine at a time: every `count`th partition from `number` on."""

    number: int
    count: int

    def name_of(self, stream: str) -> str:
        """The name under which its lease, its state and its files are: that of the stream if it is all of it."""
        return stream if self.count == 1 else f"{stream}.shards/{self.number}-of-{self.count}"

    def select(self, offsets: Mapping[int, int]) -> dict[int, int]:
        return {partition: offset for partition, offset in offsets.items() if self.has_partition(partition)}

    def has_partition(self, partition: int) -> bool:
        return partition % self.count == self.number

    def rows_filter(self, partitions: Iterable[int]) -> pc.Expression | None:
        """The rows that its state is made of, with backfilled ones, whose partition is below 0; None for all rows."""
        if self.count == 1:
            return None
        own = [partition for partition in partitions if self.has_partition(partition)]
        return pc.field(PARTITION).isin(own) | (pc.field(PARTITION) < 0)


ALL_PARTITIONS = Shard(0, 1)


def shards_of(stream: Any) -> list[Shard]:
    return [Shard(number, stream.shards) for number in range(stream.shards)]


def transaction_name(name: str, partition: int) -> str:
    """Application id of Delta's `txn` action for a partition in both tables; its version is the next offset to read."""
    return f"forecache-stream-{name}-{partition}"


def event_fields(topic: Any) -> list[pa.Field]:
    return [pa.field(column.name, ARROW_TYPES[column.type]) for column in topic.columns]


def schema_of(stream: Any) -> pa.Schema:
    features = [KEPT_FEATURES] if stream.keep_features else []
    return pa.schema([*IN_FRONT, *event_fields(stream.topic), *output_fields(stream.answers), *features, *BEHIND])


def output_fields(answers: Any) -> list[pa.Field]:
    """The columns of an answer: the outputs of a pipeline, or a real-time model's output and what answered."""
    if isinstance(answers, Realtime):
        return [pa.field(answers.output, pa.float64()), pa.field(ANSWERED_BY, pa.string())]
    if isinstance(answers, Pipeline):
        specs = [field for output in answers.output_specs for field in output.arrow_fields]
        return [*specs, *(pa.field(segment.name, pa.string()) for segment in answers.segments)]
    return []


def add_missing_columns(rows: pa.Table, columns: Iterable[str | pa.Field]) -> pa.Table:
    """Add missing columns as nulls, such as those that older rows lack; those given by name are doubles."""
    for column in columns:
        field = pa.field(column, pa.float64()) if isinstance(column, str) else column
        if field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    return rows
