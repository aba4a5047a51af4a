"""Raw: every good landing row, typed, once, with its file and line. Partitioned by day.

Rows that break the declaration go to the quarantine table with the reason; the two always add up to what landed.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets import checks
from assets.freshness import nightly_freshness
from assets.metadata import details_json, source_schema, stage_metadata
from assets.partitions import nights_of, source_partitions
from assets.stage import explained, run_stage, tell
from forecache.pipeline import Source
from resources.settings import SettingsResource
from resources.spark import SparkResource

RECONCILES = "adds_up_to_what_landed"


def build_raw(source: Source) -> dg.AssetsDefinition:
    """The raw and the quarantine table of a source, which one ingestion writes."""
    raw, quarantine = source.raw_table, source.quarantine_table
    partitions = source_partitions(source)
    common: dict[str, Any] = {
        "kinds": {"deltalake", "spark"},
        "owners": [source.owner],
        "deps": [f"landing_{source.name}"],
        "group_name": "raw",
    }
    about = "Keys and types as declared, values in range. Nothing downstream runs where one fails."
    reconciles = dg.AssetCheckSpec(
        RECONCILES,
        asset=raw,
        blocking=True,
        partitions_def=partitions,
        description="Landing rows = raw rows + quarantined rows, file by file.",
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
        check_specs=[*checks.expectation_specs(raw, partitions, about=about), reconciles],
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    @explained
    def ingest_source(
        context: dg.AssetExecutionContext, settings: SettingsResource, spark: SparkResource
    ) -> Iterator[Any]:
        from forecache.lake.ingest import ingest
        from forecache.quality.expectations import raw_expectations
        from forecache.quality.reconcile import day_counts, reconcile
        from forecache.quality.verdicts import check_nights

        current, days = settings.load(), nights_of(context)
        result = run_stage(
            context,
            lambda progress: ingest(
                spark.session(), current, source, days=days, run_id=context.run_id, progress=progress
            ),
        )
        counts = day_counts(current, source, days)
        for day, count in counts.items():
            figures = {"files": count.files, "landing_rows": count.landing, "quarantined_rows": count.quarantine}
            context.add_asset_metadata({"dagster/row_count": count.raw, **figures}, raw, day.isoformat())
            context.add_asset_metadata({"dagster/row_count": count.quarantine}, quarantine, day.isoformat())
        yield dg.MaterializeResult(raw, metadata={**stage_metadata(current, result), "details": details_json(result)})
        yield dg.MaterializeResult(quarantine, metadata={"dagster/uri": current.table_uri(quarantine)})

        tell(context, f"checking {raw}")
        states = {day: f"{raw}@{count.raw_version}" for day, count in counts.items()}
        reports = check_nights(
            spark.session(), current, raw, raw_expectations(source), column="event_day", states=states
        )
        yield from checks.expectation_events(context, raw, reports)
        outcomes = reconcile(current, source, days)
        sums = {day: checks.Verdict(outcome.success, outcome.sentence) for day, outcome in outcomes.items()}
        yield from checks.check_events(context, raw, RECONCILES, sums, blocking=True)

    return ingest_source
