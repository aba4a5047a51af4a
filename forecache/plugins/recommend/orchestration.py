"""Recommendations: a list of items for every user, ranked by a model that is fitted on all interactions so far.

The lists of an as-of date are written only if the model passes its gate: it ranks the held-out interactions of the last
weeks better than popularity and repeat purchase do. Partitioned by as-of date.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import dagster as dg

from assets import checks
from assets.metadata import details_json, markdown_table, place_in_graph, stage_metadata
from assets.partitions import nightly_freshness, pipeline_partitions, source_dependencies
from assets.published import build_published, published_name
from assets.raw import ingest_pending_files
from assets.stage import RunStep, explain_errors
from forecache.base.errors import CheckError
from forecache.base.results import StageResult
from forecache.base.settings import Settings
from forecache.declare import AS_OF
from forecache.declare.project import Project
from forecache.plugins.recommend.recommender import Recommender, SecondTable
from jobs.nightly import build_nightly_schedule, nightly_job_name
from jobs.schedules import build_asset_job, build_delivery_sensors
from resources.settings_resource import SettingsResource

NONE_REFUSED = "refused_no_date"


def build_definitions(project: Project, settings: Settings) -> dg.Definitions:
    """Everything of each recommender."""
    return dg.Definitions.merge(*map(define_recommender, project.declared("recommender").values()))


def define_recommender(recommender: Recommender) -> dg.Definitions:
    """The tables and stores, and the job that ingests, fits, ranks and publishes."""
    about = f"Ingest what waits, then fit {recommender.name}, rank for every user, and publish the lists."
    selection = [name for each in recommender.tables for name in (each.prediction_table, published_name(each))]
    nightly = build_asset_job(nightly_job_name(recommender), about, selection)
    published = build_published(recommender, require=partial(require_none_refused, recommender))
    assets = [build_recommendations(recommender), published]
    for second in recommender.second_tables:
        assets += [build_second_table(second), build_published(second)]
    return dg.Definitions(
        assets=assets,
        jobs=[nightly],
        schedules=[build_nightly_schedule(recommender, nightly)],
        sensors=build_delivery_sensors(recommender, nightly),
    )


def build_recommendations(recommender: Recommender) -> dg.AssetsDefinition:
    """The prediction table of a recommender."""
    table = recommender.prediction_table
    partitions = pipeline_partitions(recommender)

    @dg.asset(
        name=table,
        deps=source_dependencies(recommender.schedule, recommender.all_sources),
        description=f"{recommender.description}\n\n{__doc__}",
        **place_in_graph(recommender, stage="predictions"),
        kinds={"deltalake", "numpy"},
        metadata={"dagster/column_schema": _recommendation_schema(recommender)},
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        freshness_policy=nightly_freshness(recommender),
        check_specs=[
            *checks.expectation_specs(table, partitions, about="Each user once, with a list."),
            dg.AssetCheckSpec(NONE_REFUSED, asset=table, description="The last run refused none of its dates."),
        ],
    )
    @explain_errors
    def rank_and_check(context: dg.AssetExecutionContext, settings: SettingsResource) -> Iterator[Any]:
        from forecache.lake.quality.stage_checks import check_predictions
        from forecache.plugins.recommend.stage import recommend, refused_dates

        step = RunStep(context, settings.load())
        current, nights = step.settings, step.nights
        for source in recommender.all_sources:
            ingest_pending_files(step, source, last=max(nights))
        result = step.run_stage(recommend, current, recommender, nights, rebuild=step.rebuild)
        yield dg.MaterializeResult(
            metadata={
                **stage_metadata(current, result),
                "ranking": _ranking_view(result),
                "details": details_json(result),
            }
        )

        reports = check_predictions(step, recommender, result.nights)
        yield from checks.expectation_events(context, table, reports)
        # Refused dates do not fail the step: the lists of the other dates are published first.
        refusal = refused_dates(result)
        yield checks.check_result(table, NONE_REFUSED, checks.CheckVerdict(not refusal, refusal or "None was refused."))

    return rank_and_check


def require_none_refused(recommender: Recommender, context: dg.AssetExecutionContext) -> None:
    """Fail the run if it refused dates; called once the other dates are published.

    Raises:
        CheckError: Dates were refused; the message has each date and its reason.
    """
    key = dg.AssetCheckKey(dg.AssetKey(recommender.prediction_table), NONE_REFUSED)
    found = context.instance.event_log_storage.get_latest_asset_check_execution_by_key([key]).get(key)
    event = found.event.dagster_event if found is not None and found.run_id == context.run_id and found.event else None
    verdict = event.asset_check_evaluation_data if event is not None else None
    if verdict is not None and not verdict.passed:
        raise CheckError(
            str(verdict.description), remedy="The others are written, and the newest of all dates is published."
        )


def build_second_table(second: SecondTable) -> dg.AssetsDefinition:
    """A second table that the recommender's run writes, such as lists of similar items."""
    table, recommender = second.prediction_table, second.maker
    partitions = pipeline_partitions(second)
    each = f"Each {second.key[0]} once, with a {'vector' if second.packed else 'list'}."

    @dg.asset(
        name=table,
        deps=[recommender.prediction_table],
        description=f"{second.description} Written together with the lists of users, and checked here.",
        **place_in_graph(second, stage="predictions"),
        kinds={"deltalake", "numpy"},
        metadata={"dagster/column_schema": _recommendation_schema(second)},
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        freshness_policy=nightly_freshness(second),
        check_specs=checks.expectation_specs(table, partitions, about=each),
    )
    @explain_errors
    def check_second_table(context: dg.AssetExecutionContext, settings: SettingsResource) -> Iterator[Any]:
        from forecache.kit.delta.tables import table_version
        from forecache.lake.ledger import last_records
        from forecache.lake.quality.stage_checks import check_predictions

        step = RunStep(context, settings.load())
        yield dg.MaterializeResult(metadata={"delta_version": table_version(step.settings, table)})
        written = last_records(step.settings, "recommend", recommender.name)
        nights = [night for night in step.nights if night in written]
        yield from checks.expectation_events(context, table, check_predictions(step, second, nights))

    return check_second_table


def _ranking_view(result: StageResult) -> dg.MarkdownMetadataValue:
    """The newest date's gate: the metric of the model and of the baselines on the same users."""
    newest = result.details["nights"][max(result.details["nights"])]
    rows = [(name, value) for name, value in newest.get("figures", {}).items()]
    return markdown_table((newest.get("metric", "metric"), f"{newest.get('users', 0):,} users"), rows)


def _recommendation_schema(recommender: Recommender | SecondTable) -> dg.TableSchema:
    kind, about = (
        "array<struct<item, score: float, reason: string>>",
        "The items, the best first, each with a short reason.",
    )
    if recommender.packed:
        kind, about = "array<float>", "The dot product of a user's and an item's, of one as-of date, is a score."
    return dg.TableSchema(
        [
            dg.TableColumn(recommender.key[0], recommender.key_type, description="The key."),
            dg.TableColumn(AS_OF, "date", description="Day that the row is about; partition."),
            dg.TableColumn(recommender.output_columns[0], kind, description=about),
            dg.TableColumn("model_name", "string", description="Name of the recommender."),
            dg.TableColumn("model_version", "int", description="The as-of date of its fit, as YYYYMMDD."),
            dg.TableColumn("feature_version", "bigint", description="Delta version of the interactions."),
            dg.TableColumn("scored_at", "timestamp", description="Time of ranking (UTC)."),
            dg.TableColumn("run_id", "string", description="Run that ranked the items."),
        ]
    )
