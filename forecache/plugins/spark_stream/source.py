"""Reads the messages of a topic with Spark, and judges them on its executors.

Events and bad messages leave an executor in one frame, since an Arrow task has one schema: an event has its columns, a
bad message its bytes and the reason.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.kit.spark.python_worker import freeze_loaded
from forecache.stream.events.event_judge import EventJudge
from forecache.stream.table.schema import KAFKA_AT, MESSAGES, OFFSET, PARTITION, QUARANTINE, RECEIVED_AT

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

Batches = Iterable[pa.RecordBatch]
# More messages, as after a longer stop of the stream, are split into several batches.
MESSAGES_A_BATCH = 50_000


def read_topic(spark: "SparkSession", topic: str, options: Mapping[str, str], *, starting: str) -> "DataFrame":
    """Read the messages of a topic as a stream, with the columns of `MESSAGES` except the time of receipt.

    `starting`, from `starting_offsets`, is used if there is no checkpoint.
    """
    reader = spark.readStream.format("kafka").options(**options)
    reader = reader.option("subscribe", topic).option("startingOffsets", starting)
    # Expired messages are an error, not a silent gap.
    reader = reader.option("failOnDataLoss", "true").option("maxOffsetsPerTrigger", str(MESSAGES_A_BATCH))
    return rename_to_messages(reader.load())


def rename_to_messages(frame: "DataFrame") -> "DataFrame":
    """Rename the columns of Spark's Kafka source to those of `MESSAGES`."""
    from pyspark.sql import functions as F

    return frame.select(
        F.col("partition").alias(PARTITION),
        F.col("offset").alias(OFFSET),
        F.col("timestamp").alias(KAFKA_AT),
        F.col("value"),
    )


def judge_frame(
    messages: "DataFrame", judge: EventJudge, *, unknown: Callable[[int], None] = lambda events: None
) -> "DataFrame":
    """Judge a frame of messages on the executors; returns events and bad messages.

    `unknown` is called there with the number of events with undeclared members; again for a task that is repeated.
    """
    from pyspark.sql.pandas.types import from_arrow_schema

    return messages.mapInArrow(judge_function(judge, unknown), from_arrow_schema(judgement_schema(judge)))


def judgement_schema(judge: EventJudge) -> pa.Schema:
    """The columns of an event, then the reason and the bytes of a bad message, which are null for an event."""
    return pa.schema([*judge.schema, QUARANTINE.field("reason"), QUARANTINE.field("content")])


def judge_function(judge: EventJudge, unknown: Callable[[int], None]) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """Return the function that an executor runs on its batches of messages."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        schema = judgement_schema(judge)
        for batch in batches:
            judged = judge(_add_receipt_time(batch))
            unknown(judged.unknown)
            for rows in (judged.events, judged.bad):
                yield from _cast_to_schema(rows, schema).to_batches()
        freeze_loaded()

    return run


def split_judged(judged: pa.Table, judge: EventJudge) -> tuple[pa.Table, pa.Table]:
    """Split the rows that executors returned into events and bad messages, each in `reading_order`."""
    judged = judged.take(reading_order(judged))
    is_bad = judged["reason"].is_valid()
    events = judged.filter(pc.invert(is_bad)).select(judge.schema.names).cast(judge.schema)
    return events, judged.filter(is_bad).select(QUARANTINE.names).cast(QUARANTINE)


def reading_order(rows: pa.Table) -> Any:
    """Return the order in which a batch counts as read: by offset in a partition, by Kafka's time between partitions.

    Times in a partition may decrease: a message counts as sent no earlier than those before it. A bad message has no
    time, and follows the one before it.
    """
    partitions = rows[PARTITION].to_numpy()
    by_offset = np.lexsort((rows[OFFSET].to_numpy(), partitions))
    at = rows[KAFKA_AT].cast(pa.int64()).fill_null(np.iinfo(np.int64).min).to_numpy()[by_offset]
    starts = np.flatnonzero(np.diff(partitions[by_offset], prepend=-1))
    for start, end in zip(starts, np.append(starts[1:], len(at))[: len(starts)], strict=True):
        at[start:end] = np.maximum.accumulate(at[start:end])
    return pa.array(by_offset[np.argsort(at, kind="stable")])


def _add_receipt_time(batch: pa.RecordBatch) -> pa.Table:
    from datetime import datetime, timezone

    moment = MESSAGES.field(RECEIVED_AT).type
    now = pa.scalar(datetime.now(timezone.utc), moment)
    rows = pa.Table.from_batches([batch]).append_column(RECEIVED_AT, pa.repeat(now, batch.num_rows))
    return rows.select(MESSAGES.names).cast(MESSAGES)


def _cast_to_schema(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Cast rows to a schema; missing columns are null."""
    columns = [
        rows[field.name].cast(field.type) if field.name in rows.column_names else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)
