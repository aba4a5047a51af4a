"""The nights of a view with windows: their inputs, and their rows from the tiles."""

import hashlib
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

import pyarrow as pa

from forecache.base.errors import InputError
from forecache.base.results import Progress, no_progress
from forecache.base.settings import Settings
from forecache.declare import AS_OF, FeatureView
from forecache.declare.features.live import build_merge_plan
from forecache.kit.delta.files import DataFile, place_of
from forecache.kit.delta.log import active_files, group_by_partition
from forecache.kit.delta.tables import open_table
from forecache.kit.delta.writers import new_folder
from forecache.kit.windows.plan import BaseColumn
from forecache.lake.ingest.ingested_files import ingested_files
from forecache.lake.windows.key_hashes import hash_requested_keys
from forecache.lake.windows.task_runner import delta_schema, run_tasks, task_frame, widen_schema
from forecache.lake.windows.tasks import DAY, NightTask, split_buckets
from forecache.lake.windows.tiles import build_tiles, day_states, merger_of, window_days

if TYPE_CHECKING:
    from deltalake import Schema
    from pyspark.sql import DataFrame, SparkSession

# Limit of tiles, some hundred bytes each, in the memory of a Python task, and the least number worth a task.
_TASK_ROWS, _LEAST_ROWS = 1 << 20, 1 << 16
_SPARK = {pa.int32(): "int", pa.int64(): "bigint"}


def window_inputs(settings: Settings, view: FeatureView, nights: Sequence[date]) -> dict[date, str]:
    """For each night, text of the state of the days in its windows, and of the declaration."""
    source = view.event_source
    days, versions = day_states(settings, view), dict[date, int]()
    for file in ingested_files(settings, source):
        if file.event_day is not None:
            versions[file.event_day] = max(file.raw_version, versions.get(file.event_day, -1))
    inputs = {}
    for night in nights:
        seen = window_days(view, days, night)
        digest = hashlib.sha256(repr([(day, days[day]) for day in seen]).encode()).hexdigest()[:16]
        newest = max((versions.get(day, -1) for day in seen), default=-1)
        inputs[night] = f"{source.raw_table}@{newest} days={digest} code={view.fingerprint}"
    return inputs


def window_frame(
    spark: "SparkSession",
    settings: Settings,
    view: FeatureView,
    nights: Sequence[date],
    *,
    run_id: str = "",
    progress: Progress = no_progress,
    asked: "pa.Table | None" = None,
) -> "DataFrame":
    """Key columns, `as_of`, the features (double) and the states of a live view, of nights; builds missing tiles first.

    Args:
        asked: Key columns and `as_of` of the rows that are needed; None: all.
    """
    tasks = _tasks(spark, settings, view, nights, run_id, progress, asked)
    kinds = {column.name: column.type for column in view.event_source.columns}
    columns = [f"`{name}` {_SPARK.get(tasks[0].read.field(name).type, kinds[name])}" for name in view.key]
    columns += ["as_of date", *(f"`{window.name}` double" for window in view.windows)]
    columns += [f"`{column.name}` {'double' if column.is_float else 'bigint'}" for column in _state_columns(view)]
    return task_frame(spark, tasks, lambda task: task.rows(), ", ".join(columns))


def write_windows(
    spark: "SparkSession",
    settings: Settings,
    view: FeatureView,
    nights: Sequence[date],
    *,
    run_id: str = "",
    progress: Progress = no_progress,
) -> "tuple[Schema, list[DataFile]]":
    """Write the features of nights as files of the view's table; returns their columns and the files.

    Raises as `window_frame`, and UnavailableError if no space is left on the device.
    """
    tasks, folder = _tasks(spark, settings, view, nights, run_id, progress), new_folder()
    place = place_of(settings, view.feature_table)
    files = run_tasks(spark, view.feature_table, tasks, lambda task: task.files(place, folder))
    return delta_schema(tasks[0].stored.append(pa.field(AS_OF, pa.date32()))), files


def _tasks(
    spark: "SparkSession",
    settings: Settings,
    view: FeatureView,
    nights: Sequence[date],
    run_id: str,
    progress: Progress,
    asked: "pa.Table | None" = None,
) -> list[NightTask]:
    """Tasks for the nights, each for some of the keys; builds missing tiles first."""
    states = day_states(settings, view)
    days = sorted({day for night in nights for day in window_days(view, states, night)})
    if not days:
        raise InputError(
            f"No landing file has been ingested of the days that the windows of {view.name!r} see on {min(nights)}.",
            remedy="Land files for these days, or take a later night.",
        )
    inputs = {day: states[day] for day in days}
    version = build_tiles(spark, settings, view, inputs, run_id=run_id, progress=progress)
    delta = open_table(settings, view.tile_table, version=version)
    known = pa.schema(delta.schema())
    merge = merger_of(view, nights, None if asked is None else hash_requested_keys(asked, view.key, known))
    names = dict.fromkeys(n for feature in merge.features for n in feature.states)
    read = pa.schema([known.field(name) for name in (*view.key, *names)])
    stored = [*(read.field(name) for name in view.key), *(pa.field(each.name, pa.float32()) for each in view.windows)]
    stored += [pa.field(each.name, pa.float64() if each.is_float else pa.int64()) for each in _state_columns(view)]
    stored = widen_schema(pa.schema(stored), settings, view.feature_table)
    files = group_by_partition(active_files(delta), DAY)
    rows = sum(file.rows for day in days for file in files.get(day.isoformat(), ()))
    paths = tuple((day, tuple(file.path for file in files.get(day.isoformat(), ()))) for day in days)
    cores = spark.sparkContext.defaultParallelism
    num_tasks = max(1, min(cores, rows // _LEAST_ROWS), -(-rows // _TASK_ROWS))
    place = place_of(settings, view.tile_table)
    return [NightTask(place, paths, read, part, merge, stored) for part in split_buckets(num_tasks)]


def _state_columns(view: FeatureView) -> tuple[BaseColumn, ...]:
    """The state columns that nights of a live view have besides the features."""
    return () if view.live is None else build_merge_plan(view).base_columns
