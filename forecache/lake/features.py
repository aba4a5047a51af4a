"""The feature table: one partition a night, point-in-time correct, rebuilt only where its inputs changed."""

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

from forecache.errors import InputError, NotFoundError
from forecache.lake.contracts import require_numbers
from forecache.lake.delta.commit import active_files, grouped
from forecache.lake.delta.partitions import Seen, find_committed, look
from forecache.lake.delta.tables import open_table, table_version, write_partitions
from forecache.lake.events import known_events
from forecache.lake.ingest.ingested import ingested_files, raw_state, require_days
from forecache.lake.ledger import StageRecord, last_records, record
from forecache.lake.turn import own_turn
from forecache.pipeline import AS_OF, Pipeline
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

    computed = pipeline.features.compute(known_events(spark, settings, pipeline, nights))
    require_numbers(computed, pipeline, pipeline.features.names, pipeline.features.compute, "feature")
    features = (F.col(name).cast("float").alias(name) for name in pipeline.features.names)
    return computed.select(*pipeline.key, AS_OF, *features)


def feature_inputs(settings: Settings, pipeline: Pipeline, nights: Sequence[date]) -> dict[date, str]:
    """For each night, what its features depend on: the raw tables' state up to it, and the declaration."""
    files = {source.name: ingested_files(settings, source) for source in pipeline.sources}
    return {
        night: " ".join(
            [
                *(f"{s.raw_table}@{raw_state(settings, s, night, files=files[s.name])}" for s in pipeline.sources),
                f"code={pipeline.fingerprints.features}",
            ]
        )
        for night in nights
    }


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
    before = last_records(settings, STAGE, pipeline.name)
    current = {n for n in nights if not rebuild and n in before and before[n].inputs == inputs[n]}
    stale = {night: inputs[night] for night in sorted(set(nights) - current)}
    rows = {night: before[night].rows for night in current}
    # What a run committed and was killed before it could record it.
    committed = {} if rebuild else stale
    written = find_committed(settings, pipeline.feature_table, column=AS_OF, inputs=committed)
    rows |= _record(settings, pipeline, {n: writer.version for n, writer in written.items()}, inputs, run_id=run_id)
    to_build = [night for night in stale if night not in written]
    for first in range(0, len(to_build), _NIGHTS_AT_ONCE):
        chunk = to_build[first : first + _NIGHTS_AT_ONCE]
        progress(f"features of {pipeline.name} for {_span(chunk)}", first / len(to_build))
        rows |= _build(spark, settings, pipeline, chunk, inputs, seen, run_id=run_id)
    return StageResult(
        stage=STAGE,
        subject=pipeline.name,
        rows=sum(rows.values()),
        seconds=time.perf_counter() - started,
        nights=tuple(sorted(nights)),
        table=pipeline.feature_table,
        delta_version=table_version(settings, pipeline.feature_table),
        skipped=not to_build,
        details={
            "built": [night.isoformat() for night in to_build],
            "rows_by_night": {night.isoformat(): rows[night] for night in sorted(nights)},
        },
    )


def _build(
    spark: "SparkSession",
    settings: Settings,
    pipeline: Pipeline,
    nights: Sequence[date],
    inputs: Mapping[date, str],
    seen: Seen,
    *,
    run_id: str,
) -> dict[date, int]:
    started = time.perf_counter()
    frame = feature_frame(spark, settings, pipeline, nights)
    wanted = {night: inputs[night] for night in nights}
    done = write_partitions(
        frame, settings, pipeline.feature_table, column=AS_OF, values=nights, seen=seen, inputs=wanted, run_id=run_id
    )
    seconds = time.perf_counter() - started
    return _record(settings, pipeline, done.versions, inputs, run_id=run_id, seconds=seconds)


def _record(
    settings: Settings,
    pipeline: Pipeline,
    versions: Mapping[date, int],
    inputs: Mapping[date, str],
    *,
    run_id: str,
    seconds: float = 0.0,
) -> dict[date, int]:
    """Enter nights in the ledger by the Delta version that wrote each; returns their rows."""
    if not versions:
        return {}
    table = pipeline.feature_table
    rows = partition_rows(settings, table, list(versions))
    each = seconds / len(versions)
    record(
        settings,
        [
            StageRecord(STAGE, pipeline.name, n, inputs[n], table, version, rows[n], each, run_id=run_id)
            for n, version in versions.items()
        ],
    )
    return rows


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
    """Refuse nights outside the pipeline's dates or without landing files; see `ingest.require_days`."""
    if not nights:
        raise InputError(f"No night was given for pipeline {pipeline.name!r}.", remedy="Give at least one.")
    for night in (min(nights), max(nights)):
        if night < pipeline.start or (pipeline.end and night > pipeline.end):
            raise InputError(
                f"The night {night} lies outside pipeline {pipeline.name!r}.",
                remedy=f"Its nights go from {pipeline.start} to {pipeline.end or 'yesterday'}.",
            )
    for source in pipeline.sources:
        require_days(settings, source, nights)


def last_night(pipeline: Pipeline, today: date) -> date:
    """The newest night of a pipeline: yesterday, or the last day of its data."""
    yesterday = today - timedelta(days=1)
    return min(yesterday, pipeline.end) if pipeline.end else yesterday


def _span(nights: Sequence[date]) -> str:
    return str(nights[0]) if len(nights) == 1 else f"{nights[0]} to {nights[-1]}"
