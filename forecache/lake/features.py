"""The feature table: one partition a night, point-in-time correct, rebuilt only where its inputs changed."""

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from forecache.errors import NotFoundError
from forecache.lake.delta.log import active_files, grouped
from forecache.lake.delta.partitions import find_committed, look
from forecache.lake.delta.tables import open_table, table_version, write_partitions
from forecache.lake.feature_columns import typed_columns
from forecache.lake.ledger import last_records
from forecache.lake.sources.pins import Pins
from forecache.lake.sources.rows import known_rows
from forecache.lake.sources.state import require_delivered, source_state
from forecache.lake.stage import Done, Stage, span
from forecache.lake.turn import own_turn
from forecache.pipeline import AS_OF, AnySource, FeatureView, Pipeline
from forecache.pipeline.as_of import require_as_of, require_within
from forecache.pipeline.names import FEATURES
from forecache.results import Progress, StageResult, no_progress
from forecache.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

STAGE = "features"
_NIGHTS_AT_ONCE = 31


def feature_frame(
    spark: "SparkSession", settings: Settings, pipeline: Pipeline, nights: Sequence[date], *, pins: Pins | None = None
) -> "DataFrame":
    """Key columns, `as_of` and the features as float32, for every entity known on each night; see `view_frame`."""
    (view,) = pipeline.views
    return view_frame(spark, settings, view, nights, pins=pins)


def view_frame(
    spark: "SparkSession", settings: Settings, view: FeatureView, nights: Sequence[date], *, pins: Pins | None = None
) -> "DataFrame":
    """Key columns, `as_of` and the features as float32, for every key known on each night.

    Args:
        pins: The existing tables as the run sees them; None: as they are now.

    Raises:
        InputError: The declaration's function left out a column that it declares, or one is no number.
    """

    rows, compute = known_rows(spark, settings, view.sources, nights, pins=pins), view.features.compute
    computed = rows[view.sources[0].name] if compute is None else compute(rows)
    return computed.select(*view.key, AS_OF, *typed_columns(computed, view))


def view_inputs(
    settings: Settings, view: FeatureView, nights: Sequence[date], *, pins: Pins | None = None
) -> dict[date, str]:
    """For each night, what its features depend on: the state of the sources, and the declaration."""
    states = source_states(settings, view.sources, nights, pins=pins)
    return {night: f"{states[night]} code={view.fingerprint}" for night in nights}


def source_states(
    settings: Settings, sources: Sequence[AnySource], nights: Sequence[date], *, pins: Pins | None = None
) -> dict[date, str]:
    """For each night, the state of all that it may see of the sources."""
    states = [source_state(settings, source, nights, pins=pins) for source in sources]
    return {night: " ".join(state[night] for state in states) for night in nights}


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
    """Write the features of a pipeline for the nights that are missing or stale; see `build_view`."""
    require_nights(settings, pipeline, nights)
    (view,) = pipeline.views
    return build_view(spark, settings, view, nights, run_id=run_id, progress=progress, rebuild=rebuild)


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
        Rows over all the nights asked for; `details` has `built` (nights written) and `rows_by_night`.

    Raises:
        InputError: A night lies outside the view's dates or has no landing file.
        ConflictError: Another run wrote one of the nights from other inputs meanwhile; from the same inputs its rows
            are taken over.
    """
    with own_turn(settings, view.feature_table, run_id, progress):
        return _build_stale(spark, settings, view, nights, run_id, progress, rebuild)


def _build_stale(
    spark: "SparkSession",
    settings: Settings,
    view: FeatureView,
    nights: Sequence[date],
    run_id: str,
    progress: Progress,
    rebuild: bool,
) -> StageResult:
    started = time.perf_counter()
    pins = Pins(settings)
    require_nights(settings, view, nights, pins=pins)
    table = view.feature_table
    seen = look(settings, table, AS_OF)
    inputs = view_inputs(settings, view, nights, pins=pins)

    def build(some: Sequence[date]) -> dict[date, Done]:
        frame = view_frame(spark, settings, view, some, pins=pins)
        wanted = {night: inputs[night] for night in some}
        done = write_partitions(
            frame, settings, table, column=AS_OF, values=some, seen=seen, inputs=wanted, run_id=run_id
        )
        return _done(settings, table, done.versions, pins.details(view.sources))

    def find(stale: Mapping[date, str]) -> dict[date, Done]:
        written = find_committed(settings, table, column=AS_OF, inputs=stale)
        return _done(settings, table, {night: writer.version for night, writer in written.items()})

    def tell(some: Sequence[date], share: float) -> None:
        progress(f"features of {view.name} for {span(some)}", share)

    stage = Stage(settings, STAGE, view.name, run_id)
    records, built = stage.nights(inputs, build, at_once=_NIGHTS_AT_ONCE, rebuild=rebuild, find=find, progress=tell)
    return StageResult(
        stage=STAGE,
        subject=view.name,
        rows=sum(row.rows for row in records.values()),
        seconds=time.perf_counter() - started,
        nights=tuple(sorted(nights)),
        table=table,
        delta_version=table_version(settings, table),
        skipped=not built,
        details={
            "built": [night.isoformat() for night in built],
            "rows_by_night": {night.isoformat(): records[night].rows for night in sorted(records)},
        },
    )


def _done(
    settings: Settings, table: str, versions: Mapping[date, int], details: Mapping[str, Any] | None = None
) -> dict[date, Done]:
    """Nights by the Delta version that wrote each."""
    if not versions:
        return {}
    rows = partition_rows(settings, table, list(versions))
    return {night: Done(rows[night], details or {}, table, version) for night, version in versions.items()}


def partition_rows(settings: Settings, table: str, nights: Sequence[date]) -> dict[date, int]:
    """Rows of each night's partition, from the log's statistics; 0 for one that is not there."""
    files = grouped(active_files(open_table(settings, table)), AS_OF)
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


def stale_nights(settings: Settings, view: FeatureView) -> tuple[date, ...]:
    """Nights whose features were built from raw rows that have changed since, by a late file, or by older code."""
    records = last_records(settings, STAGE, view.name)
    nights = [night for night in records if night is not None]
    inputs = view_inputs(settings, view, nights)
    return tuple(sorted(night for night in nights if records[night].inputs != inputs[night]))


def require_nights(
    settings: Settings, declared: Pipeline | FeatureView, nights: Sequence[date], *, pins: Pins | None = None
) -> None:
    """Refuse nights outside the dates of a pipeline or view, or without a delivery; see `require_delivered`.

    Those of a pipeline have to be its as-of dates, too.
    """
    if isinstance(declared, Pipeline):
        require_as_of(declared, nights)
    else:
        require_within(declared, nights)
    for source in declared.all_sources:
        require_delivered(settings, source, nights, pins=pins)
