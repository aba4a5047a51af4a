"""Raw: every good landing row, typed, once, with its file and line. Partitioned by day.

Rows that break the declaration go to the quarantine table with the reason; the two always add up to what landed. A day
is materialized where at least one of its landing files was read, and no other day is.
"""

from collections.abc import Collection, Iterator
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets import checks
from assets.freshness import nightly_freshness
from assets.metadata import details_json, source_schema, stage_metadata
from assets.partitions import nights_of, source_partitions
from assets.stage import explained, run_stage, tell
from forecache.pipeline import Source
from forecache.settings import Settings
from resources.settings import SettingsResource
from resources.spark import SparkResource

if TYPE_CHECKING:
    from forecache.quality.reconcile import DayCounts
    from forecache.results import StageResult

RECONCILES = "adds_up_to_what_landed"
READ = "files_are_read"


def build_raw(source: Source) -> dg.AssetsDefinition:
    """The raw and the quarantine table of a source, which one ingestion writes."""
    raw, quarantine = source.raw_table, source.quarantine_table
    partitions = source_partitions(source)
    common: dict[str, Any] = {
        "kinds": {"deltalake", "spark"},
        "owners": [source.owner],
        "deps": [f"landing_{source.name}"],
        "group_name": "raw",
        # A day without a file that was read is not materialized.
        "skippable": True,
    }
    about = "Keys and types as declared, values in range. Nothing downstream runs where one fails."
    reconciles = dg.AssetCheckSpec(
        RECONCILES,
        asset=raw,
        blocking=True,
        partitions_def=partitions,
        description="Landing rows, counted from the bytes of each file, = raw rows + quarantined rows.",
    )
    read = dg.AssetCheckSpec(
        READ, asset=raw, partitions_def=partitions, description="No landing file of the day is in quarantine whole."
    )

    @dg.multi_asset(
        name=raw,
        specs=[
            dg.AssetSpec(
                raw,
                description=f"{source.description}\n\n{__doc__}",
                metadata={"dagster/column_schema": source_schema(source)},
                freshness_policy=nightly_freshness(source.end),
                **common,
            ),
            dg.AssetSpec(
                quarantine,
                description="Landing rows that break the declaration, each with file, line, reason and content.",
                **common,
            ),
        ],
        check_specs=[*checks.expectation_specs(raw, partitions, about=about), reconciles, read],
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    @explained
    def ingest_source(
        context: dg.AssetExecutionContext, settings: SettingsResource, spark: SparkResource
    ) -> Iterator[Any]:
        from forecache.lake.ingested import read_days, require_days

        current, days = settings.load(), nights_of(context)
        try:
            result = _ingest(context, current, spark, source, days)
        except Exception:
            # The days that were ingested although a file failed the run are there.
            tell_of_days(context, current, source)
            raise
        tell_of_days(context, current, source, beside=days)
        done = read_days(current, source) & set(days)
        if done == set(days):
            yield from _materialized(context, current, source, result, days)
        else:
            tell_of_days(context, current, source, of=done)
        yield from _checked(context, current, spark, source, days)
        others = (context.run.asset_selection or set()) - {dg.AssetKey(raw), dg.AssetKey(quarantine)}
        if others:
            require_days(current, source, days)

    return ingest_source


def _ingest(
    context: dg.AssetExecutionContext,
    settings: Settings,
    spark: SparkResource,
    source: Source,
    days: Collection[date],
) -> "StageResult":
    from forecache.lake.ingest import ingest

    return run_stage(
        context,
        lambda progress: ingest(spark.session(), settings, source, days=days, run_id=context.run_id, progress=progress),
    )


def ingest_waiting(
    context: dg.AssetExecutionContext, settings: Settings, spark: SparkResource, source: Source, *, last: date
) -> None:
    """Ingest what landed up to a day and waits, in the step of an asset that needs it; nothing where nothing waits.

    Raises:
        CheckError: A check of the raw table that blocks failed.
    """
    from forecache.errors import CheckError
    from forecache.lake.pending import new_files, pending_days

    days = pending_days(new_files(settings, source), first=source.start, last=last)
    if not days:
        return
    try:
        _ingest(context, settings, spark, source, days)
    finally:
        tell_of_days(context, settings, source)
    blocking = {}
    for check, verdicts in _verdicts(settings, spark, source, days).items():
        for event in checks.evaluations(context, source.raw_table, check, verdicts, blocking=check in _BLOCKING):
            context.instance.report_runless_asset_event(event)
        blocking |= {day: v for day, v in verdicts.items() if check in _BLOCKING and not v.passed}
    if blocking:
        day, verdict = min(blocking.items())
        raise CheckError(verdict.reason, remedy=f"Mend the landing files of {day} and run again.")


_BLOCKING = (checks.EXPECTATIONS, RECONCILES)


def tell_of_days(
    context: dg.AssetExecutionContext,
    settings: Settings,
    source: Source,
    *,
    of: Collection[date] | None = None,
    beside: Collection[date] = (),
) -> None:
    """Record days whose files were read as materialized, where Dagster does not do it by itself.

    Args:
        of: These days; None: all that are not materialized yet.
        beside: But for these.
    """
    from forecache.lake.ingested import read_days
    from forecache.quality.reconcile import day_counts

    raw, quarantine = source.raw_table, source.quarantine_table
    if of is None:
        known = context.instance.get_materialized_partitions(dg.AssetKey(raw))
        of = {day for day in read_days(settings, source) if day.isoformat() not in known} - set(beside)
    for day, count in day_counts(settings, source, of).items():
        for table, metadata in ((raw, _raw_metadata(count)), (quarantine, _quarantine_metadata(count))):
            context.log_event(dg.AssetMaterialization(table, partition=day.isoformat(), metadata=metadata))


def _raw_metadata(count: "DayCounts") -> dict[str, Any]:
    figures = {"files": count.files, "landing_rows": count.landing, "quarantined_rows": count.quarantine}
    return {"dagster/row_count": count.raw, **figures}


def _quarantine_metadata(count: "DayCounts") -> dict[str, Any]:
    return {"dagster/row_count": count.quarantine}


def _materialized(
    context: dg.AssetExecutionContext,
    settings: Settings,
    source: Source,
    result: "StageResult",
    days: Collection[date],
) -> Iterator[Any]:
    from forecache.quality.reconcile import day_counts

    raw, quarantine = source.raw_table, source.quarantine_table
    for day, count in day_counts(settings, source, days).items():
        context.add_asset_metadata(_raw_metadata(count), raw, day.isoformat())
        context.add_asset_metadata(_quarantine_metadata(count), quarantine, day.isoformat())
    yield dg.MaterializeResult(raw, metadata={**stage_metadata(settings, result), "details": details_json(result)})
    yield dg.MaterializeResult(quarantine, metadata={"dagster/uri": settings.table_uri(quarantine)})


def _checked(
    context: dg.AssetExecutionContext, settings: Settings, spark: SparkResource, source: Source, days: Collection[date]
) -> Iterator[Any]:
    tell(context, f"checking {source.raw_table}")
    for check, verdicts in _verdicts(settings, spark, source, days).items():
        yield from checks.check_events(context, source.raw_table, check, verdicts, blocking=check in _BLOCKING)


def _verdicts(
    settings: Settings, spark: SparkResource, source: Source, days: Collection[date]
) -> dict[str, dict[date, checks.Verdict]]:
    """By check, the verdicts on the days that have a file; expectations are about days with a file that was read."""
    from forecache.lake.ingested import read_days, unread_files
    from forecache.quality.expectations import raw_expectations
    from forecache.quality.reconcile import day_counts, reconcile
    from forecache.quality.verdicts import check_nights

    raw, done = source.raw_table, read_days(settings, source)
    counts = {day: count for day, count in day_counts(settings, source, days).items() if count.files}
    states = {day: f"{raw}@{count.raw_version}" for day, count in counts.items() if day in done}
    expectations = raw_expectations(source)
    reports = check_nights(spark.session(), settings, raw, expectations, column="event_day", states=states)
    unread = unread_files(settings, source)
    read = {}
    for day in counts:
        names = [f"{file.file}: {file.error}" for file in unread if file.event_day == day]
        severity = dg.AssetCheckSeverity.WARN if day in done else dg.AssetCheckSeverity.ERROR
        reason = f"{len(names)} in quarantine: {'; '.join(names)}." if names else "Every landing file was read."
        read[day] = checks.Verdict(not names, reason, severity=severity)
    outcomes = reconcile(settings, source, list(counts))
    return {
        **checks.expectation_verdicts(reports),
        RECONCILES: {day: checks.Verdict(outcome.success, outcome.sentence) for day, outcome in outcomes.items()},
        READ: read,
    }
