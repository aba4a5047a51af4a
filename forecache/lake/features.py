"""The feature table: one partition a night, point-in-time correct, rebuilt only where its inputs changed."""

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

from forecache.errors import NotFoundError
from forecache.lake.contracts import require_numbers
from forecache.lake.delta.log import active_files, grouped
from forecache.lake.delta.partitions import find_committed, look
from forecache.lake.delta.tables import open_table, table_version, write_partitions
from forecache.lake.ledger import last_records
from forecache.lake.sources.rows import known_rows
from forecache.lake.sources.state import require_delivered, source_state
from forecache.lake.stage import Done, Stage, span
from forecache.lake.turn import own_turn
from forecache.pipeline import AS_OF, Pipeline
from forecache.pipeline.as_of import require_as_of
from forecache.results import Progress, StageResult, no_progress
from forecache.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

STAGE = "features"
_NIGHTS_AT_ONCE = 31


def feature_frame(spark: "SparkSession", settings: Settings, pipeline: Pipeline, nights: Sequence[date]) -> "DataFrame":
    """Key columns, `as_of` and the features as float32, for every entity known on each night.

    Raises:
        InputError: The declaration's function left out a column that it declares, or one is no number.
    """
    from pyspark.sql import functions as F

    computed = pipeline.features.compute(known_rows(spark, settings, pipeline.sources, nights))
    require_numbers(computed, pipeline, pipeline.features.names, pipeline.features.compute, "feature")
    features = (F.col(name).cast("float").alias(name) for name in pipeline.features.names)
    return computed.select(*pipeline.key, AS_OF, *features)


def feature_inputs(settings: Settings, pipeline: Pipeline, nights: Sequence[date]) -> dict[date, str]:
    """For each night, what its features depend on: the raw tables' state up to it, and the declaration."""
    states = [source_state(settings, source, nights) for source in pipeline.sources]
    code = f"code={pipeline.fingerprints.features}"
    return {night: " ".join([*(state[night] for state in states), code]) for night in nights}


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
    """Write the features of the nights that are missing or stale.

    Args:
        rebuild: Write those of all the nights.

    Returns:
        Rows over all the nights asked for; `details` has `built` (nights written) and `rows_by_night`.

    Raises:
        InputError: A night lies outside the pipeline's dates or has no landing file.
        ConflictError: Another run wrote one of the nights from other inputs meanwhile; from the same inputs its rows
            are taken over.
    """
    with own_turn(settings, pipeline.feature_table, run_id, progress):
        return _build_stale(spark, settings, pipeline, nights, run_id, progress, rebuild)


def _build_stale(
    spark: "SparkSession",
    settings: Settings,
    pipeline: Pipeline,
    nights: Sequence[date],
    run_id: str,
    progress: Progress,
    rebuild: bool,
) -> StageResult:
    started = time.perf_counter()
    require_nights(settings, pipeline, nights)
    seen = look(settings, pipeline.feature_table, AS_OF)
    inputs = feature_inputs(settings, pipeline, nights)
    table = pipeline.feature_table

    def build(some: Sequence[date]) -> dict[date, Done]:
        frame = feature_frame(spark, settings, pipeline, some)
        wanted = {night: inputs[night] for night in some}
        done = write_partitions(
            frame, settings, table, column=AS_OF, values=some, seen=seen, inputs=wanted, run_id=run_id
        )
        return _done(settings, table, done.versions)

    def find(stale: Mapping[date, str]) -> dict[date, Done]:
        written = find_committed(settings, table, column=AS_OF, inputs=stale)
        return _done(settings, table, {night: writer.version for night, writer in written.items()})

    def tell(some: Sequence[date], share: float) -> None:
        progress(f"features of {pipeline.name} for {span(some)}", share)

    stage = Stage(settings, STAGE, pipeline.name, run_id)
    records, built = stage.nights(inputs, build, at_once=_NIGHTS_AT_ONCE, rebuild=rebuild, find=find, progress=tell)
    return StageResult(
        stage=STAGE,
        subject=pipeline.name,
        rows=sum(row.rows for row in records.values()),
        seconds=time.perf_counter() - started,
        nights=tuple(sorted(nights)),
        table=pipeline.feature_table,
        delta_version=table_version(settings, pipeline.feature_table),
        skipped=not built,
        details={
            "built": [night.isoformat() for night in built],
            "rows_by_night": {night.isoformat(): records[night].rows for night in sorted(records)},
        },
    )


def _done(settings: Settings, table: str, versions: Mapping[date, int]) -> dict[date, Done]:
    """Nights by the Delta version that wrote each."""
    if not versions:
        return {}
    rows = partition_rows(settings, table, list(versions))
    return {night: Done(rows[night], table=table, delta_version=version) for night, version in versions.items()}


def partition_rows(settings: Settings, table: str, nights: Sequence[date]) -> dict[date, int]:
    """Rows of each night's partition, from the log's statistics; 0 for one that is not there."""
    files = grouped(active_files(open_table(settings, table)), AS_OF)
    return {night: sum(file.rows for file in files.get(night.isoformat(), ())) for night in nights}


def feature_versions(settings: Settings, pipeline: Pipeline, nights: Iterable[date]) -> dict[date, int]:
    """The Delta version of the feature table that wrote each night's partition.

    Raises:
        NotFoundError: A night has no features yet.
    """
    records, versions = last_records(settings, STAGE, pipeline.name), {}
    for night in nights:
        if night not in records:
            raise NotFoundError(
                f"Pipeline {pipeline.name!r} has no features for the night {night}.",
                remedy=f"`forecache run {pipeline.name} --night {night}` builds them.",
            )
        versions[night] = records[night].delta_version
    return versions


def stale_nights(settings: Settings, pipeline: Pipeline) -> tuple[date, ...]:
    """Nights whose features were built from raw rows that have changed since, by a late file, or by older code."""
    records = last_records(settings, STAGE, pipeline.name)
    nights = [night for night in records if night is not None]
    inputs = feature_inputs(settings, pipeline, nights)
    return tuple(sorted(night for night in nights if records[night].inputs != inputs[night]))


def require_nights(settings: Settings, pipeline: Pipeline, nights: Sequence[date]) -> None:
    """Refuse nights that are no as-of date of the pipeline or lack a delivery; see `require_delivered`."""
    require_as_of(pipeline, nights)
    for source in pipeline.sources:
        require_delivered(settings, source, nights)
