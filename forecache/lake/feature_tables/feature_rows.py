"""The features of nights as Spark frames, and the inputs that they depend on."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

from forecache.base.results import Progress, no_progress
from forecache.base.settings import Settings
from forecache.declare import AS_OF, AnySource, FeatureView, Pipeline
from forecache.lake.feature_tables.feature_columns import typed_columns
from forecache.lake.feature_tables.join import join_views
from forecache.lake.sources.point_in_time import known_rows
from forecache.lake.sources.source_states import source_state
from forecache.lake.sources.tables.pins import Pins
from forecache.lake.windows.nights import window_frame, window_inputs

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession


def feature_frame(
    spark: "SparkSession", settings: Settings, pipeline: Pipeline, nights: Sequence[date], *, pins: Pins | None = None
) -> "DataFrame":
    """Key columns, `as_of` and the features as float32, for every entity known on each night; see `view_frame`."""
    frames = {view.name: view_frame(spark, settings, view, nights, pins=pins) for view in pipeline.views}
    if pipeline.is_joined:
        return join_views(spark, settings, pipeline, nights, frames, pins=pins)
    return frames[pipeline.views[0].name]


def view_frame(
    spark: "SparkSession",
    settings: Settings,
    view: FeatureView,
    nights: Sequence[date],
    *,
    pins: Pins | None = None,
    run_id: str = "",
    progress: Progress = no_progress,
    asked: "pa.Table | None" = None,
    states: bool = False,
) -> "DataFrame":
    """Key columns, `as_of` and the features as float32, for every key known on each night.

    For windows, missing tiles of the nights are built first.

    Args:
        pins: The existing tables as the run sees them; None: as they are now.
        asked: Key columns and `as_of` of the rows that are needed; windows are computed for these only.
        states: Include the states of a live view.
    """
    if view.features is None:
        computed = window_frame(spark, settings, view, nights, run_id=run_id, progress=progress, asked=asked)
    else:
        rows, compute = known_rows(spark, settings, view.sources, nights, pins=pins), view.features.compute
        computed = rows[view.sources[0].name] if compute is None else compute(rows)
    kept = view.live_states if states else ()
    return computed.select(*view.key, AS_OF, *typed_columns(computed, view), *kept)


def view_inputs(
    settings: Settings, view: FeatureView, nights: Sequence[date], *, pins: Pins | None = None
) -> dict[date, str]:
    """For each night, text of all that its features depend on: the state of the sources, and the declaration."""
    if view.windows:
        return window_inputs(settings, view, nights)
    states = source_states(settings, view.sources, nights, pins=pins)
    return {night: f"{states[night]} code={view.fingerprint}" for night in nights}


def code_of(inputs: str) -> str:
    """The view's fingerprint in a text of `view_inputs`; "" if it has none."""
    return inputs.partition(" code=")[2]


def source_states(
    settings: Settings, sources: Sequence[AnySource], nights: Sequence[date], *, pins: Pins | None = None
) -> dict[date, str]:
    """For each night, text of the state of all source rows that it may see."""
    states = [source_state(settings, source, nights, pins=pins) for source in sources]
    return {night: " ".join(state[night] for state in states) for night in nights}


def joined_inputs(
    settings: Settings,
    pipeline: Pipeline,
    versions: Mapping[str, Mapping[date, int]],
    nights: Sequence[date],
    *,
    pins: Pins | None = None,
) -> dict[date, str]:
    """For each night, text of all that joined features depend on: view partitions, entities, and the declaration.

    `versions` has, by name of the view, the Delta version that wrote each night's partition.
    """
    entities = source_states(settings, pipeline.entities.sources if pipeline.entities else (), nights, pins=pins)
    tables = {view.name: view.feature_table for view in pipeline.views}
    return {
        night: " ".join(
            [
                *(f"{table}@{versions[name][night]}" for name, table in tables.items()),
                entities[night],
                f"code={pipeline.fingerprints.features}",
            ]
        )
        for night in nights
    }
