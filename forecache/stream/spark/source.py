"""Messages of a topic as Spark reads them, and what executors make of them: typed events and bad messages.

Both leave an executor in one frame, since a task of Arrow has one schema: an event has its columns, a bad message its
bytes and the reason.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.lake.spark.python_worker import freeze_loaded
from forecache.stream.events.judge import Judge
from forecache.stream.record import KAFKA_AT, MESSAGES, OFFSET, PARTITION, QUARANTINE, RECEIVED_AT

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

Batches = Iterable[pa.RecordBatch]
# A batch of more than so many messages, as after a night without the stream, is cut into several.
MESSAGES_A_BATCH = 50_000


def read_topic(spark: "SparkSession", topic: str, options: Mapping[str, str], *, starting: str) -> "DataFrame":
    """The messages of a topic as a stream, with the columns of `MESSAGES` but for the time of receipt.

    Args:
        options: From `forecache.stream.spark.options.java_options`.
        starting: From `forecache.stream.spark.checkpoint.starting_offsets`; counts where there is no checkpoint.
    """
    reader = spark.readStream.format("kafka").options(**options)
    reader = reader.option("subscribe", topic).option("startingOffsets", starting)
    # Events that the broker no longer has are an error, not a gap that nobody sees.
    reader = reader.option("failOnDataLoss", "true").option("maxOffsetsPerTrigger", str(MESSAGES_A_BATCH))
    return as_messages(reader.load())


def as_messages(frame: "DataFrame") -> "DataFrame":
    """The columns of Spark's Kafka source under the names that messages have."""
    from pyspark.sql import functions as F

    return frame.select(
        F.col("partition").alias(PARTITION),
        F.col("offset").alias(OFFSET),
        F.col("timestamp").alias(KAFKA_AT),
        F.col("value"),
    )


def judged_frame(
    messages: "DataFrame", judge: Judge, *, unknown: Callable[[int], None] = lambda events: None
) -> "DataFrame":
    """Events and bad messages of a frame of messages, judged by its executors.

    Args:
        unknown: Called there with how many events have members that are not declared; again for a task that is tried
            again.
    """
    from pyspark.sql.pandas.types import from_arrow_schema

    return messages.mapInArrow(judging(judge, unknown), from_arrow_schema(judged_schema(judge)))


def judged_schema(judge: Judge) -> pa.Schema:
    """The columns of an event, and behind them the reason and the bytes of a bad message, null in an event."""
    return pa.schema([*judge.schema, QUARANTINE.field("reason"), QUARANTINE.field("content")])


def judging(judge: Judge, unknown: Callable[[int], None]) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """What an executor runs on its batches of messages."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        schema = judged_schema(judge)
        for batch in batches:
            judged = judge(_received(batch))
            unknown(judged.unknown)
            for rows in (judged.events, judged.bad):
                yield from _in_schema(rows, schema).to_batches()
        freeze_loaded()

    return run


def split(judged: pa.Table, judge: Judge) -> tuple[pa.Table, pa.Table]:
    """Events and bad messages out of what executors returned, each in the order of `in_order`."""
    judged = judged.take(in_order(judged))
    is_bad = judged["reason"].is_valid()
    events = judged.filter(pc.invert(is_bad)).select(judge.schema.names).cast(judge.schema)
    return events, judged.filter(is_bad).select(QUARANTINE.names).cast(QUARANTINE)


def in_order(rows: pa.Table) -> Any:
    """The order in which a batch counts as read: by Kafka's time between partitions, by offset within one.

    Times within a partition may go back: a message counts as sent no earlier than those before it. A bad message has no
    time, and stands behind the one before it.
    """
    partitions = rows[PARTITION].to_numpy()
    by_offset = np.lexsort((rows[OFFSET].to_numpy(), partitions))
    at = rows[KAFKA_AT].cast(pa.int64()).fill_null(np.iinfo(np.int64).min).to_numpy()[by_offset]
    starts = np.flatnonzero(np.diff(partitions[by_offset], prepend=-1))
    for start, end in zip(starts, np.append(starts[1:], len(at))[: len(starts)], strict=True):
        at[start:end] = np.maximum.accumulate(at[start:end])
    return pa.array(by_offset[np.argsort(at, kind="stable")])


def _received(batch: pa.RecordBatch) -> pa.Table:
    from datetime import datetime, timezone

    moment = MESSAGES.field(RECEIVED_AT).type
    now = pa.scalar(datetime.now(timezone.utc), moment)
    rows = pa.Table.from_batches([batch]).append_column(RECEIVED_AT, pa.repeat(now, batch.num_rows))
    return rows.select(MESSAGES.names).cast(MESSAGES)


def _in_schema(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The rows with all columns of a schema, null where they have none."""
    columns = [
        rows[field.name].cast(field.type) if field.name in rows.column_names else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)
