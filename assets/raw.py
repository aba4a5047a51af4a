"""Raw: every good landing row, typed, once, with its file and line. Partitioned by day.

Rows that break the declaration go to the quarantine table with the reason; the rows of both tables add up to the
landing rows. A day is materialized if at least one of its landing files was read.
"""

from collections.abc import Collection, Iterator, Sequence
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets import checks
from assets.metadata import details_json, place_in_graph, source_schema, stage_metadata
from assets.partitions import raw_freshness, source_partitions
from assets.stage import RunStep, explain_errors
from forecache.base.results import StageResult
from forecache.declare import AnySource, Source
from forecache.lake.quality.expectations import EXPECTATIONS, READ, RECONCILES
from resources.settings_resource import SettingsResource

if TYPE_CHECKING:
    from forecache.lake.ingest.ingested_files import IngestedFile
    from forecache.lake.quality.pending_files import RawChecks
    from forecache.lake.quality.raw_days import DayCounts

_EVALUATION = dg.DagsterEventType.ASSET_CHECK_EVALUATION.value
BLOCKING = (EXPECTATIONS, RECONCILES)


def build_raw(source: Source) -> dg.AssetsDefinition:
    """The raw and the quarantine table of a source, which one ingestion writes."""
    raw, quarantine = source.raw_table, source.quarantine_table
    partitions = source_partitions(source)
    common: dict[str, Any] = {
        "kinds": {"deltalake"},
        "deps": [f"landing_{source.name}"],
        **place_in_graph(source, stage="raw"),
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
                freshness_policy=raw_freshness(source.end),
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
    @explain_errors
    def ingest_source(context: dg.AssetExecutionContext, settings: SettingsResource) -> Iterator[Any]:
        from forecache.lake.ingest.ingest import ingest
        from forecache.lake.ingest.ingested_files import delivered_days, ingested_files, require_days
        from forecache.lake.quality.pending_files import check_raw_days, extract_days
        from forecache.lake.quality.raw_days import raw_verdicts

        step = RunStep(context, settings.load())
        current, days = step.settings, step.nights
        try:
            extract_days(step, source, days, rebuild=step.rebuild)
            correctable = days if source.extract else raw_verdicts(current, source).refused_days
            result = step.run_stage(ingest, current, source, days=days, correctable=correctable)
        except Exception:
            # Some days were ingested before a file failed the run.
            record_days(step, source, ingested_files(current, source))
            raise
        files = ingested_files(current, source)
        record_days(step, source, files, exclude=days)
        done = delivered_days(files) & set(days)
        if done == set(days):
            yield from _materialize_days(step, source, result, files)
        else:
            record_days(step, source, files, of=done)
        step.report_progress(f"checking {raw}")
        for check, verdicts in day_verdicts(check_raw_days(step, source, days, files), files).items():
            yield from checks.check_events(context, raw, check, verdicts, blocking=check in BLOCKING)
        others = (context.run.asset_selection or set()) - {dg.AssetKey(raw), dg.AssetKey(quarantine)}
        if others:
            require_days(current, source, days, files=files)

    return ingest_source


def ingest_pending_files(step: RunStep, source: AnySource, *, last: date) -> None:
    """Ingest the pending landing files of a source up to a day, in the step of an asset that reads it."""
    from forecache.lake.quality.pending_files import ingest_pending

    if isinstance(source, Source):
        ingest_pending(
            step, source, last=last, on_ingested=partial(record_days, step, source),
            on_checked=partial(_record_checks, step, source),
        )  # fmt: skip


def _record_checks(step: RunStep, source: Source, found: "RawChecks", files: Sequence["IngestedFile"]) -> None:
    """Record checks of days outside their own asset's step."""
    context = step.context
    for check, verdicts in day_verdicts(found, files).items():
        for event in checks.check_evaluations(context, source.raw_table, check, verdicts, blocking=check in BLOCKING):
            # Reported for this run: outside of runs Dagster accepts only one evaluation of a day, ever.
            report = dg.DagsterEvent(_EVALUATION, context.job_name, event_specific_data=event)
            context.instance.report_dagster_event(report, run_id=context.run_id)


def record_days(
    step: RunStep,
    source: Source,
    files: Sequence["IngestedFile"],
    *,
    of: Collection[date] | None = None,
    exclude: Collection[date] = (),
) -> None:
    """Record days whose files were read as materialized, if Dagster does not record them itself.

    Args:
        files: The source's ingested files.
        of: The days to record; None: every day that was read and is not materialized yet.
        exclude: Days to leave out.
    """
    from forecache.lake.ingest.ingested_files import delivered_days
    from forecache.lake.quality.raw_days import day_counts

    raw, quarantine = source.raw_table, source.quarantine_table
    if of is None:
        known = step.context.instance.get_materialized_partitions(dg.AssetKey(raw))
        of = {day for day in delivered_days(files) if day.isoformat() not in known} - set(exclude)
    for day, count in day_counts(files, of).items():
        for table, metadata in ((raw, _raw_metadata(count)), (quarantine, _quarantine_metadata(count))):
            step.context.log_event(dg.AssetMaterialization(table, partition=day.isoformat(), metadata=metadata))


def _raw_metadata(count: "DayCounts") -> dict[str, Any]:
    figures = {"files": count.files, "landing_rows": count.landing, "quarantined_rows": count.quarantine}
    return {"dagster/row_count": count.raw, **figures}


def _quarantine_metadata(count: "DayCounts") -> dict[str, Any]:
    return {"dagster/row_count": count.quarantine}


def _materialize_days(
    step: RunStep, source: Source, result: StageResult, files: Sequence["IngestedFile"]
) -> Iterator[dg.MaterializeResult[Any]]:
    from forecache.lake.quality.raw_days import day_counts

    raw, quarantine = source.raw_table, source.quarantine_table
    for day, count in day_counts(files, step.nights).items():
        step.context.add_asset_metadata(_raw_metadata(count), raw, day.isoformat())
        step.context.add_asset_metadata(_quarantine_metadata(count), quarantine, day.isoformat())
    yield dg.MaterializeResult(raw, metadata={**stage_metadata(step.settings, result), "details": details_json(result)})
    yield dg.MaterializeResult(quarantine, metadata={"dagster/uri": step.settings.table_uri(quarantine)})


def day_verdicts(found: "RawChecks", files: Sequence["IngestedFile"]) -> dict[str, dict[date, checks.CheckVerdict]]:
    """Verdicts by check and day, for days that have a file; expectations cover only days with a file that was read."""
    from forecache.lake.quality.pending_files import unread_reason

    read = {}
    for day in found.sums:
        reason = unread_reason(files, day)
        severity = dg.AssetCheckSeverity.WARN if day in found.reports else dg.AssetCheckSeverity.ERROR
        read[day] = checks.CheckVerdict(not reason, reason or "Every landing file was read.", severity=severity)
    return {
        **checks.expectation_verdicts(found.reports),
        RECONCILES: {day: checks.CheckVerdict(each.success, each.sentence) for day, each in found.sums.items()},
        READ: read,
    }
