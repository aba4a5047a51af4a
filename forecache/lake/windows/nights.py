"""The nights of a view with windows: what they depend on, and their rows from the tiles."""

import hashlib
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

from forecache.errors import InputError
from forecache.lake.delta.tables import read_table
from forecache.lake.ingest.ingested import ingested_files
from forecache.lake.windows.merge import Merge, Merged
from forecache.lake.windows.states import state_names
from forecache.lake.windows.tiles import DAY, build_tiles, day_states, seen_days, tile_rows
from forecache.pipeline import AS_OF, FeatureView
from forecache.results import Progress, no_progress
from forecache.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# So many tiles, about 100 bytes each, are in the memory of a Python task at a time.
_TASK_ROWS = 1 << 21


def window_inputs(settings: Settings, view: FeatureView, nights: Sequence[date]) -> dict[date, str]:
    """For each night, the state of the days that its windows see, and the declaration; other days change nothing."""
    source = view.events
    days, versions = day_states(settings, view), dict[date, int]()
    for file in ingested_files(settings, source):
        if file.event_day is not None:
            versions[file.event_day] = max(file.raw_version, versions.get(file.event_day, -1))
    inputs = {}
    for night in nights:
        seen = seen_days(view, days, night)
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
) -> "DataFrame":
    """Key columns, `as_of` and the features (double) of nights; builds the tiles that they lack.

    Raises:
        InputError, ConflictError: See `build_tiles`.
    """
    from pyspark.sql import functions as F

    states = day_states(settings, view)
    days = sorted({day for night in nights for day in seen_days(view, states, night)})
    if not days:
        raise InputError(
            f"No landing file has been ingested of the days that the windows of {view.name!r} see on {min(nights)}.",
            remedy="Land files for these days, or take a later night.",
        )
    inputs = {day: states[day] for day in days}
    version = build_tiles(spark, settings, view, inputs, run_id=run_id, progress=progress)
    merge = merge_of(view, nights)
    columns = dict.fromkeys(name for feature in merge.features for name in feature.states)
    tiles = read_table(spark, settings, view.tile_table, version=version).where(F.col(DAY).isin(days))
    tiles = tiles.select(*view.key, DAY, *columns)
    rows = sum(tile_rows(settings, view.tile_table, days).values())
    num_tasks = max(1, min(spark.sparkContext.defaultParallelism, rows // 10_000), rows // _TASK_ROWS)
    schema = tiles.select(*view.key, F.col(DAY).alias(AS_OF)).schema
    for feature in merge.features:
        schema = schema.add(feature.name, "double")
    return tiles.repartition(num_tasks, *view.key).mapInArrow(merge, schema)


def merge_of(view: FeatureView, nights: Sequence[date]) -> Merge:
    """What makes the nights of a view from its tiles."""
    features = []
    for window in view.windows:
        states = tuple(name for measure in window.measures for name in state_names(measure))
        features.append(Merged(window.name, window.aggregate, window.days, states))
    return Merge(view.key, tuple(features), tuple(sorted(nights)), view.days_active)
