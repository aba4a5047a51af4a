"""Recommendations: a list of items for every user, ranked by a model that is fitted on all interactions so far.

The lists of an as-of date are written only if the model passes its gate: it ranks the held-out interactions of the last
weeks better than popularity and repeat purchase do. Partitioned by as-of date.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets import checks
from assets.metadata import details_json, owners_of, recommendation_schema, stage_metadata
from assets.partitions import nightly_freshness, pipeline_partitions, source_dependencies
from assets.raw import ingest_pending_files
from assets.stage import RunStep, explain_errors
from assets.views import ranking_view
from forecache.base.plugins import load_hook
from forecache.declare.served import NightlyDeclaration, PluginTable
from resources.settings import SettingsResource
from resources.spark import SparkResource

NONE_REFUSED = "refused_no_date"


def build_recommendations(recommender: NightlyDeclaration) -> dg.AssetsDefinition:
    """The prediction table of a recommender."""
    table = recommender.prediction_table
    partitions = pipeline_partitions(recommender)

    @dg.asset(
        name=table,
        deps=source_dependencies(recommender.schedule, recommender.all_sources),
        description=f"{recommender.description}\n\n{__doc__}",
        group_name="predictions",
        kinds={"deltalake", "numpy"},
        owners=owners_of(recommender),
        metadata={"dagster/column_schema": recommendation_schema(recommender)},
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        freshness_policy=nightly_freshness(recommender),
        check_specs=[
            *checks.expectation_specs(table, partitions, about="Each user once, with a list."),
            dg.AssetCheckSpec(NONE_REFUSED, asset=table, description="The last run refused none of its dates."),
        ],
    )
    @explain_errors
    def rank_and_check(
        context: dg.AssetExecutionContext, settings: SettingsResource, spark: SparkResource
    ) -> Iterator[Any]:
        from forecache.lake.quality.stage_checks import check_predictions

        step = RunStep(context, settings.load(), spark)
        current, nights = step.settings, step.nights
        for source in recommender.all_sources:
            ingest_pending_files(step, source, last=max(nights))
        result = step.run_stage(load_hook("recommend", "recommend"), current, recommender, nights, rebuild=step.rebuild)
        yield dg.MaterializeResult(
            metadata={
                **stage_metadata(current, result),
                "ranking": ranking_view(result),
                "details": details_json(result),
            }
        )

        reports = check_predictions(step, recommender, result.nights)
        yield from checks.expectation_events(context, table, reports)
        # Refused dates do not fail the step: the lists of the other dates are published first.
        refusal = load_hook("recommend", "refused_dates")(result)
        yield checks.check_result(table, NONE_REFUSED, checks.CheckVerdict(not refusal, refusal or "None was refused."))

    return rank_and_check


def require_none_refused(context: dg.AssetExecutionContext, recommender: NightlyDeclaration) -> None:
    """Fail the run if it refused dates; called once the other dates are published.

    Raises:
        CheckError: Dates were refused; the message has each date and its reason.
    """
    from forecache.base.errors import CheckError

    key = dg.AssetCheckKey(dg.AssetKey(recommender.prediction_table), NONE_REFUSED)
    found = context.instance.event_log_storage.get_latest_asset_check_execution_by_key([key]).get(key)
    event = found.event.dagster_event if found is not None and found.run_id == context.run_id and found.event else None
    verdict = event.asset_check_evaluation_data if event is not None else None
    if verdict is not None and not verdict.passed:
        raise CheckError(
            str(verdict.description), remedy="The others are written, and the newest of all dates is published."
        )


def build_second_table(second: PluginTable) -> dg.AssetsDefinition:
    """A second table that the recommender's run writes, such as lists of similar items."""
    table, recommender = second.prediction_table, second.maker
    partitions = pipeline_partitions(second)
    each = f"Each {second.key[0]} once, with a {'vector' if second.packed else 'list'}."

    @dg.asset(
        name=table,
        deps=[recommender.prediction_table],
        description=f"{second.description} Written together with the lists of users, and checked here.",
        group_name="predictions",
        kinds={"deltalake", "numpy"},
        owners=owners_of(second),
        metadata={"dagster/column_schema": recommendation_schema(second)},
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        freshness_policy=nightly_freshness(second),
        check_specs=checks.expectation_specs(table, partitions, about=each),
    )
    @explain_errors
    def check_second_table(
        context: dg.AssetExecutionContext, settings: SettingsResource, spark: SparkResource
    ) -> Iterator[Any]:
        from forecache.kit.delta.tables import table_version
        from forecache.lake.ledger import last_records
        from forecache.lake.quality.stage_checks import check_predictions

        step = RunStep(context, settings.load(), spark)
        yield dg.MaterializeResult(metadata={"delta_version": table_version(step.settings, table)})
        written = last_records(step.settings, "recommend", recommender.name)
        nights = [night for night in step.nights if night in written]
        yield from checks.expectation_events(context, table, check_predictions(step, second, nights))

    return check_second_table
