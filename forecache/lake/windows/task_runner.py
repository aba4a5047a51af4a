"""Runs the tasks of windows in Spark, and fits their columns to the tables."""

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from forecache.base.settings import Settings
from forecache.kit.delta.engine_errors import as_known_error
from forecache.kit.delta.files import DataFile
from forecache.kit.delta.log import open_if_exists
from forecache.lake.windows.tasks import pickle_files

if TYPE_CHECKING:
    from deltalake import Schema
    from pyspark.sql import DataFrame, SparkSession

_T = TypeVar("_T")
# A Spark task costs some hundredths of a second; so many for each core balance the work well enough.
_TASKS_A_CORE = 4


def run_tasks(
    spark: "SparkSession", table: str, tasks: Sequence[_T], files: Callable[[_T], Iterable[DataFile]]
) -> list[DataFile]:
    """Run tasks in Spark; returns the files that they write for a table.

    Raises:
        UnavailableError: No space is left on the device.
    """
    at_once = _TASKS_A_CORE * spark.sparkContext.defaultParallelism
    frame = task_frame(spark, tasks, lambda task: pickle_files(files(task)), "file binary", num_tasks=at_once)
    try:
        # A retried task writes files with other names, and only those of its last attempt are returned.
        return [pickle.loads(row.file) for row in frame.collect()]
    except Exception as error:
        known = as_known_error(table, error)
        if known is None:
            raise
        raise known from error


def task_frame(
    spark: "SparkSession",
    tasks: Sequence[_T],
    rows: Callable[[_T], Iterable[pa.RecordBatch]],
    schema: str,
    *,
    num_tasks: int | None = None,
) -> "DataFrame":
    """The rows of tasks as a frame.

    Args:
        num_tasks: Maximum number of Spark tasks; None: one for each.
    """
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
