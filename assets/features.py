"""Features: one row for each entity known on an as-of date, from events up to that date only. Partitioned by date.

Pending landing files up to the date are ingested first. Only dates whose raw rows or code changed are built again. A
late landing file makes the dates after it stale; the check `is_current` fails for them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from typing import Any

import dagster as dg

from assets import checks
from assets.metadata import details_json, feature_columns, key_columns, place_in_graph, stage_metadata
from assets.partitions import as_of_freshness, as_of_partitions, source_dependencies
from assets.raw import ingest_pending_files
from assets.stage import RunStep, explain_errors
from forecache.base.results import StageResult
from forecache.declare import FeatureView, Pipeline, Schedule
from resources.instance import SPARK_POOL
from resources.settings_resource import SettingsResource

CURRENT = "is_current"
_MAX_STALE_SHOWN = 31


def build_features(view: FeatureView, schedule: Schedule) -> dg.AssetsDefinition:
    """The feature table of a view, for the as-of dates of the pipelines that use it."""
    return _build_features_asset(view, schedule, source_dependencies(schedule, view.sources))


def build_joined_features(pipeline: Pipeline) -> dg.AssetsDefinition:
    """The feature table of a pipeline that joins views; its step also builds those of their tables that are stale.

    Views whose sources begin on other days cannot be in a job with it: a Dagster job has one range of partitions.
    """
    views = [dg.AssetDep(view.feature_table) for view in pipeline.views]
    of_entities = source_dependencies(pipeline.schedule, pipeline.entities.sources if pipeline.entities else ())
    return _build_features_asset(pipeline, pipeline.schedule, [*views, *of_entities])


def _build_features_asset(
    declared: FeatureView | Pipeline, schedule: Schedule, dependencies: Sequence[dg.AssetDep]
) -> dg.AssetsDefinition:
    table = declared.feature_table
    partitions = as_of_partitions(schedule, declared.all_sources)
    about = "Rows there, each entity once, and what the features declare. Nothing is scored where one fails."

    @dg.asset(
        name=table,
        deps=dependencies,
        description=f"{declared.description}\n\n{__doc__}".strip(),
        **place_in_graph(declared, stage="features"),
        pool=SPARK_POOL,
        kinds={"deltalake"},
        metadata={"dagster/column_schema": dg.TableSchema([*key_columns(declared), *feature_columns(declared)])},
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        freshness_policy=as_of_freshness(schedule, declared.end),
        check_specs=[
            *checks.expectation_specs(table, partitions, about=about),
            dg.AssetCheckSpec(
                CURRENT,
                asset=table,
                partitions_def=partitions,
                description="The date is not older than its raw rows and its code.",
            ),
        ],
    )
    @explain_errors
    def build_and_check_features(context: dg.AssetExecutionContext, settings: SettingsResource) -> Iterator[Any]:
        from forecache.lake.features import build_features, build_view, stale_nights
        from forecache.lake.quality.stage_checks import check_features
        from forecache.operations.kept_contracts import keep_contracts

        step = RunStep(context, settings.load())
        current, nights = step.settings, step.nights
        for source in declared.all_sources:
            ingest_pending_files(step, source, last=max(nights))
        for view in (declared,) if isinstance(declared, FeatureView) else declared.views:
            keep_contracts(step, view, nights)
        build: Callable[..., StageResult] = build_view if isinstance(declared, FeatureView) else build_features
        result = step.run_stage(build, current, declared, nights, rebuild=step.rebuild)
        yield dg.MaterializeResult(metadata={**stage_metadata(current, result), "details": details_json(result)})

        reports = check_features(step, declared, nights)
        for view in declared.views if isinstance(declared, Pipeline) else ():
            if view.publish is not None:
                check_features(step, view, nights)  # the stage may have built the view's table
        yield from checks.expectation_events(context, table, reports)
        built = dict.fromkeys(
            nights, checks.CheckVerdict(True, "It was built from the raw rows and the code of today.")
        )
        stale = _stale_verdicts(set(stale_nights(current, declared)) - set(nights))
        yield from checks.check_events(context, table, CURRENT, built, others=stale)

    return build_and_check_features


def _stale_verdicts(nights: Iterable[date]) -> dict[date, checks.CheckVerdict]:
    """Verdicts on stale as-of dates that are not in the run; the newest 31 at most."""
    reason = "Its raw rows or the code changed since it was built: run this date again."
    stale = checks.CheckVerdict(False, reason, severity=dg.AssetCheckSeverity.WARN)
    return dict.fromkeys(sorted(nights)[-_MAX_STALE_SHOWN:], stale)
