"""The feature table: one partition for each night, point-in-time correct, rebuilt only if its inputs changed."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, TypeAlias

from forecache.base.errors import NotFoundError
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.base.table_names import FEATURES
from forecache.declare import AS_OF, FeatureView, Pipeline
from forecache.declare.schedules.as_of import require_as_of, require_within
from forecache.kit.delta.files import DataFile
from forecache.kit.delta.log import active_files, group_by_partition
from forecache.kit.delta.partitions import find_committed_partitions, take_snapshot
from forecache.kit.delta.tables import commit_partitions, open_table, table_version
from forecache.kit.delta.writers import write_frame
from forecache.lake.feature_tables.feature_rows import joined_inputs, view_frame, view_inputs
from forecache.lake.feature_tables.join import join_views, read_view
from forecache.lake.ledger import last_records
from forecache.lake.sources.source_states import require_delivered
from forecache.lake.sources.tables.pins import Pins
from forecache.lake.stage import Stage, StageOutcome, format_nights, hold_table_lock
from forecache.lake.windows.nights import write_windows

if TYPE_CHECKING:
    from deltalake import Schema
    from pyspark.sql import SparkSession

STAGE = "features"
_NIGHTS_AT_ONCE = 31
# Columns and files.
Written: TypeAlias = "tuple[Schema, Sequence[DataFile]]"


def build_features(
    spark: "SparkSession",
    settings: Settings,
    pipeline: Pipeline,
    nights: Sequence[date],
    *,
    run_id: str = "",
    progress: Progress = no_progress,
    rebuild: bool = False,
) -> StageResult:
    """Write the features of a pipeline for the nights that are missing or stale, those of its views first.

    Raises as `build_view`, and InputError if the function of the entities left out a column.
    """
    require_nights(settings, pipeline, nights)
    built = [
        build_view(spark, settings, view, nights, run_id=run_id, progress=progress, rebuild=rebuild)
        for view in pipeline.views
    ]
    if pipeline.is_joined:
        return _build_joined(spark, settings, pipeline, nights, run_id, progress, rebuild)
    return built[0]


def build_view(
    spark: "SparkSession",
    settings: Settings,
    view: FeatureView,
    nights: Sequence[date],
    *,
    run_id: str = "",
    progress: Progress = no_progress,
    rebuild: bool = False,
) -> StageResult:
    """Write the features of a view for the nights that are missing or stale.

    Args:
        rebuild: Write those of all the nights.

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
        writer = _FeatureWriter(settings, view, pins.details(view.sources), run_id, progress)

        def write(some: Sequence[date]) -> Written:
            if view.windows:
                return write_windows(spark, settings, view, some, run_id=run_id, progress=progress)
            frame = view_frame(spark, settings, view, some, pins=pins)
            return write_frame(frame, settings, view.feature_table, partition_by=AS_OF)

        return writer.write_stale(view_inputs(settings, view, nights, pins=pins), write, rebuild=rebuild)


def _build_joined(
    spark: "SparkSession",
    settings: Settings,
    pipeline: Pipeline,
    nights: Sequence[date],
    run_id: str,
    progress: Progress,
    rebuild: bool,
) -> StageResult:
    """Write the features that are joined from the tables of views, for the nights whose views or entities changed."""
    with hold_table_lock(settings, pipeline.feature_table, run_id, progress):
        pins = Pins(settings)
        sources = pipeline.entities.sources if pipeline.entities else ()
        writer = _FeatureWriter(settings, pipeline, pins.details(sources), run_id, progress)
        versions = {view.name: feature_versions(settings, view, nights) for view in pipeline.views}

        def write(some: Sequence[date]) -> Written:
            frames = {
                view.name: read_view(spark, settings, view, {night: versions[view.name][night] for night in some})
                for view in pipeline.views
            }
            frame = join_views(spark, settings, pipeline, some, frames, pins=pins)
            return write_frame(frame, settings, pipeline.feature_table, partition_by=AS_OF)

        inputs = joined_inputs(settings, pipeline, versions, nights, pins=pins)
        return writer.write_stale(inputs, write, rebuild=rebuild)


class _FeatureWriter:
    """Writes the stale nights of a feature table.

    Create it before the inputs are read, so that newer rows of another run are not overwritten.
    """

    def __init__(
        self,
        settings: Settings,
        declared: Pipeline | FeatureView,
        details: Mapping[str, Any],
        run_id: str,
        progress: Progress,
    ) -> None:
        self._started = time.perf_counter()
        self._settings, self._declared, self._table = settings, declared, declared.feature_table
        self._details, self._run_id, self._progress = details, run_id, progress
        self._seen = take_snapshot(settings, self._table, AS_OF)

    def write_stale(
        self, inputs: Mapping[date, str], write: Callable[[Sequence[date]], Written], *, rebuild: bool
    ) -> StageResult:
        """Write the nights whose inputs differ from those of their last record, with `write` for some at a time."""
        name = self._declared.name

        def build(some: Sequence[date]) -> dict[date, StageOutcome]:
            done = commit_partitions(
                write(some),
                self._settings,
                self._table,
                column=AS_OF,
                values=some,
                seen=self._seen,
                inputs={night: inputs[night] for night in some},
                run_id=self._run_id,
            )
            return _night_outcomes(self._settings, self._table, done.versions, self._details)

        def find(stale: Mapping[date, str]) -> dict[date, StageOutcome]:
            written = find_committed_partitions(self._settings, self._table, column=AS_OF, inputs=stale)
            return _night_outcomes(
                self._settings, self._table, {night: writer.version for night, writer in written.items()}
            )

        def report_progress(some: Sequence[date], share: float) -> None:
            self._progress(f"features of {name} for {format_nights(some)}", share)

        stage = Stage(self._settings, STAGE, name, self._run_id)
        records, built = stage.run_nights(
            inputs, build, at_once=_NIGHTS_AT_ONCE, rebuild=rebuild, find=find, progress=report_progress
        )
        return StageResult(
            stage=STAGE,
            subject=name,
            rows=sum(row.rows for row in records.values()),
            seconds=time.perf_counter() - self._started,
            nights=tuple(sorted(inputs)),
            table=self._table,
            delta_version=table_version(self._settings, self._table),
            skipped=not built,
            details={
                "built": [night.isoformat() for night in built],
                "rows_by_night": {night.isoformat(): records[night].rows for night in sorted(records)},
            },
        )


def _night_outcomes(
    settings: Settings, table: str, versions: Mapping[date, int], details: Mapping[str, Any] | None = None
) -> dict[date, StageOutcome]:
    """The outcome for each night, given the Delta version that wrote it."""
    if not versions:
        return {}
    rows = partition_rows(settings, table, list(versions))
    return {night: StageOutcome(rows[night], details or {}, table, version) for night, version in versions.items()}


def partition_rows(settings: Settings, table: str, nights: Sequence[date]) -> dict[date, int]:
    """Rows of each night's partition, from the log's statistics; 0 for a missing one."""
    files = group_by_partition(active_files(open_table(settings, table)), AS_OF)
    return {night: sum(file.rows for file in files.get(night.isoformat(), ())) for night in nights}


def feature_versions(settings: Settings, declared: Pipeline | FeatureView, nights: Iterable[date]) -> dict[date, int]:
    """The Delta version of the feature table that wrote each night's partition.

    Raises:
        NotFoundError: A night has no features yet.
    """
    subject = declared.feature_table.removeprefix(FEATURES)
    records, versions = last_records(settings, STAGE, subject), {}
    for night in nights:
        if night not in records:
            raise NotFoundError(
                f"{declared.name!r} has no features for the night {night}.",
                remedy=f"`forecache run PIPELINE --night {night}` builds them.",
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
    """Refuse nights outside the dates of a pipeline or view, or without a delivery; see `require_delivered`.

    Nights of a pipeline also have to be as-of dates of its schedule.
    """
    if isinstance(declared, Pipeline):
        require_as_of(declared, nights)
    else:
        require_within(declared, nights)
    for source in declared.all_sources:
        require_delivered(settings, source, nights, pins=pins)
