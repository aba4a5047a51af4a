"""Runs the tasks of windows in Spark, and fits their columns to the tables."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from forecache.base.settings import Settings
from forecache.kit.delta.files import DataFile, pickle_file
from forecache.kit.delta.log import open_if_exists
from forecache.kit.delta.writers import collect_files

if TYPE_CHECKING:
    from deltalake import Schema
    from pyspark.sql import DataFrame, SparkSession

_T = TypeVar("_T")
# A Spark task costs some hundredths of a second; so many for each core balance the work well enough.
_TASKS_A_CORE = 4


def run_tasks(
    spark: "SparkSession", table: str, tasks: Sequence[_T], files: Callable[[_T], Iterable[DataFile]]
) -> list[DataFile]:
    """Run tasks in Spark; returns the files that they write for a table."""
    at_once = _TASKS_A_CORE * spark.sparkContext.defaultParallelism
    frame = task_frame(spark, tasks, lambda task: map(pickle_file, files(task)), "file binary", num_tasks=at_once)
    return collect_files(frame, table)


def task_frame(
    spark: "SparkSession",
    tasks: Sequence[_T],
    rows: Callable[[_T], Iterable[pa.RecordBatch]],
    schema: str,
    *,
    num_tasks: int | None = None,
) -> "DataFrame":
    """The rows of tasks as a frame; `num_tasks` is the maximum number of Spark tasks (None: one for each)."""
    tasks = list(tasks)

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                yield from rows(tasks[number])

    num_tasks = max(1, min(len(tasks), num_tasks or len(tasks)))
    return spark.range(0, len(tasks), 1, num_tasks).mapInArrow(run, schema)


def delta_schema(schema: pa.Schema) -> "Schema":
    from deltalake import Schema

    return Schema.from_arrow(schema)


def widen_schema(schema: pa.Schema, settings: Settings, table: str) -> pa.Schema:
    """The schema with the types that its columns have in a table, if those are wider integers."""
    delta = open_if_exists(settings, table)
    there = {field.name: field.type for field in pa.schema(delta.schema())} if delta is not None else {}
    wider = (pa.int32(), pa.int64())
    return pa.schema([f.with_type(pa.int64()) if (f.type, there.get(f.name)) == wider else f for f in schema])
