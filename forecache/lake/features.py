"""Feature tables: one partition for each night, point-in-time correct, rebuilt only if its inputs changed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

from forecache.base.errors import NotFoundError
from forecache.base.plugins import load_hook
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.base.table_names import FEATURES
from forecache.declare import AS_OF, FeatureView, Pipeline
from forecache.declare.as_of import require_as_of, require_within
from forecache.kit.delta.files import DataFile
from forecache.kit.delta.partitions import TableSnapshot, take_snapshot
from forecache.kit.delta.tables import table_version
from forecache.kit.delta.writers import write_frame
from forecache.lake.arrow_rows import joined_rows, view_rows, write_nights
from forecache.lake.engine import decide_engine, find_spark_functions
from forecache.lake.feature_rows import join_views, joined_inputs, read_view, view_frame, view_inputs
from forecache.lake.ledger import last_records
from forecache.lake.sources import Pins, count_rows, require_delivered
from forecache.lake.stage_runner import Stage, hold_table_lock, partition_rows, write_stale_partitions
from forecache.lake.stored_features import RowBatches

if TYPE_CHECKING:
    from deltalake import Schema


STAGE = "features"
_NIGHTS_AT_ONCE = 31
# Columns and files.
Written: TypeAlias = "tuple[Schema, Sequence[DataFile]]"


def build_features(
    settings: Settings,
    pipeline: Pipeline,
    nights: Sequence[date],
    *,
    run_id: str = "",
    progress: Progress = no_progress,
    rebuild: bool = False,
) -> StageResult:
    """Write the features of a pipeline for the nights that are missing or stale, those of its views first."""
    require_nights(settings, pipeline, nights)
    built = [
        build_view(settings, view, nights, run_id=run_id, progress=progress, rebuild=rebuild) for view in pipeline.views
    ]
    if pipeline.is_joined:
        return build_joined(settings, pipeline, nights, run_id=run_id, progress=progress, rebuild=rebuild)
    return built[0]


def build_view(
    settings: Settings,
    view: FeatureView,
    nights: Sequence[date],
    *,
    run_id: str = "",
    progress: Progress = no_progress,
    rebuild: bool = False,
) -> StageResult:
    """Write the features of a view for the nights that are missing or stale, or with `rebuild` for all of them.

    Returns:
        Rows of all the requested nights; `details` has `built` (nights written) and `rows_by_night`.

    Raises:
        InputError: A night lies outside the view's dates or has no landing file.
        ConflictError: Another run wrote one of the nights from other inputs meanwhile; from the same inputs its rows
            are taken over.
    """
    with hold_table_lock(settings, view.feature_table, run_id, progress):
        pins = Pins(settings)
        require_nights(settings, view, nights, pins=pins)
        details, stage = pins.details(view.sources), Stage(settings, STAGE, view.name, run_id)
        seen = take_snapshot(settings, view.feature_table, AS_OF)
        inputs = view_inputs(settings, view, nights, pins=pins)

        def write(some: Sequence[date]) -> Written:
            days = view.longest_window_days if view.windows else None
            first = None if days is None else min(some) - timedelta(days=days - 1)
            rows = count_rows(settings, view.sources, first=first, last=max(some))
            engine = decide_engine(settings, needs_spark=find_spark_functions([view]), rows=rows)
            engine.report(details, progress, about=f"features of {view.name}")
            if view.windows:
                write_windows = load_hook("window_features", "write_windows")
                written: Written = write_windows(engine, settings, view, some, run_id=run_id, progress=progress)
                return written
            if engine.name == "arrow":
                compute = lambda night: nullcontext(view_rows(settings, view, [night], pins=pins))  # noqa: E731
                return write_nights(settings, view.feature_table, some, compute)
            frame = view_frame(engine.session(), settings, view, some, pins=pins)
            return write_frame(frame, settings, view.feature_table, partition_by=AS_OF)

        return _write_stale(
            stage, view.feature_table, seen, inputs, write, details=details, rebuild=rebuild, progress=progress
        )


def build_joined(
    settings: Settings,
    pipeline: Pipeline,
    nights: Sequence[date],
    *,
    run_id: str = "",
    progress: Progress = no_progress,
    rebuild: bool = False,
) -> StageResult:
    """Write the features that are joined from the tables of views, for the nights whose views or entities changed."""
    with hold_table_lock(settings, pipeline.feature_table, run_id, progress):
        pins = Pins(settings)
        details = pins.details(pipeline.entities.sources if pipeline.entities else ())
        stage, table = Stage(settings, STAGE, pipeline.name, run_id), pipeline.feature_table
        seen = take_snapshot(settings, table, AS_OF)
        versions = {view.name: feature_versions(settings, view, nights) for view in pipeline.views}

        def write(some: Sequence[date]) -> Written:
            of_views = {view.name: {night: versions[view.name][night] for night in some} for view in pipeline.views}
            entities = pipeline.entities.compute if pipeline.entities else None
            tables = [partition_rows(settings, view.feature_table, some, column=AS_OF) for view in pipeline.views]
            num_rows = sum(sum(rows.values()) for rows in tables)
            engine = decide_engine(settings, needs_spark=find_spark_functions((), entities), rows=num_rows)
            engine.report(details, progress, about=f"features of {pipeline.name}")
            if engine.name == "arrow":

                def join(night: date) -> AbstractContextManager[RowBatches]:
                    of_night = {name: of_view[night] for name, of_view in of_views.items()}
                    return joined_rows(settings, pipeline, night, of_night, pins=pins)

                return write_nights(settings, table, some, join)
            spark = engine.session()
            frames = {view.name: read_view(spark, settings, view, of_views[view.name]) for view in pipeline.views}
            frame = join_views(spark, settings, pipeline, some, frames, pins=pins)
            return write_frame(frame, settings, table, partition_by=AS_OF)

        inputs = joined_inputs(settings, pipeline, versions, nights, pins=pins)
        return _write_stale(stage, table, seen, inputs, write, details=details, rebuild=rebuild, progress=progress)


def _write_stale(
    stage: Stage,
    table: str,
    seen: TableSnapshot,
    inputs: Mapping[date, str],
    write: Callable[[Sequence[date]], Written],
    *,
    details: Mapping[str, Any],
    rebuild: bool,
    progress: Progress,
) -> StageResult:
    records, built = write_stale_partitions(
        stage,
        table,
        inputs,
        write,
        column=AS_OF,
        seen=seen,
        at_once=_NIGHTS_AT_ONCE,
        rebuild=rebuild,
        progress=progress,
        about=f"features of {stage.subject}",
        details=details,
    )
    return stage.result(
        sum(row.rows for row in records.values()),
        nights=sorted(inputs),
        table=table,
        version=table_version(stage.settings, table),
        skipped=not built,
        details={
            "built": [night.isoformat() for night in built],
            "rows_by_night": {night.isoformat(): records[night].rows for night in sorted(records)},
        },
    )


def feature_versions(settings: Settings, declared: Pipeline | FeatureView, nights: Iterable[date]) -> dict[date, int]:
    """The Delta version of the feature table that wrote each night's partition; NotFoundError if a night has none."""
    subject = declared.feature_table.removeprefix(FEATURES)
    nights = list(nights)
    records, versions = last_records(settings, STAGE, subject, nights=nights), {}
    for night in nights:
        if night not in records:
            raise NotFoundError(
                f"{declared.name!r} has no features for as-of date {night}.",
                remedy=f"`forecache run PIPELINE --date {night}` builds them.",
            )
        versions[night] = records[night].delta_version
    return versions


def stale_nights(settings: Settings, declared: Pipeline | FeatureView) -> tuple[date, ...]:
    """Nights whose features are stale: raw rows changed since (by a late file), or the code did."""
    if isinstance(declared, Pipeline) and not declared.is_joined:
        return stale_nights(settings, declared.views[0])
    records = last_records(settings, STAGE, declared.name)
    nights = [night for night in records if night is not None]
    if isinstance(declared, FeatureView):
        inputs = view_inputs(settings, declared, nights)
        return tuple(sorted(night for night in nights if records[night].inputs != inputs[night]))
    below = {night for view in declared.views for night in stale_nights(settings, view)}
    versions = {view.name: feature_versions(settings, view, nights) for view in declared.views}
    inputs = joined_inputs(settings, declared, versions, nights)
    return tuple(sorted(night for night in nights if records[night].inputs != inputs[night] or night in below))


def require_nights(
    settings: Settings, declared: Pipeline | FeatureView, nights: Sequence[date], *, pins: Pins | None = None
) -> None:
    """Refuse nights outside the dates of a view, or the as-of dates of a pipeline, or without a delivery."""
    if isinstance(declared, Pipeline):
        require_as_of(declared, nights)
    else:
        require_within(declared, nights)
    for source in declared.all_sources:
        require_delivered(settings, source, nights, pins=pins)
