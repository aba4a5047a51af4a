"""Training set: features and labels of past as-of dates, split by time so that no label reaches into a later split."""

from collections.abc import Callable, Iterator, Sequence
from datetime import date
from typing import Any

import dagster as dg

from assets import checks
from assets.metadata import feature_columns, key_columns, place_in_graph, stage_metadata
from assets.partitions import TrainingSetConfig, choose_training_night
from assets.raw import ingest_pending_files
from assets.sources import source_asset
from assets.stage import RunStep, explain_errors
from assets.views import splits_view
from forecache.base.results import StageResult
from forecache.declare import Pipeline, Realtime
from resources.instance import SPARK_POOL
from resources.settings_resource import SettingsResource

SEPARATE = "splits_are_apart"


def build_training_set(pipeline: Pipeline) -> dg.AssetsDefinition:
    """The training set of a pipeline; each build is a Delta version, which the model's run pins."""
    label = pipeline.trained_label
    columns = [
        *key_columns(pipeline),
        dg.TableColumn("split", "string", description="train, validation or test."),
        *feature_columns(pipeline),
        dg.TableColumn(label.name, "double", description=f"Label, over the next {label.horizon_days} days."),
    ]

    def build(step: RunStep, night: date) -> StageResult:
        from forecache.lake import training_set as stage

        return step.run_stage(stage.build_training_set, step.settings, pipeline, night, rebuild=step.rebuild)

    return build_training_set_asset(
        pipeline,
        pipeline.training_table,
        columns,
        deps=[source_asset(source) for source in pipeline.all_sources],
        description=__doc__,
        apart=f"{label.horizon_days} days or more lie between the splits, and none is empty.",
        build=build,
    )


def build_training_set_asset(
    declared: Pipeline | Realtime,
    table: str,
    columns: Sequence[dg.TableColumn],
    *,
    deps: Sequence[Any],
    description: str | None,
    apart: str,
    build: Callable[[RunStep, date], StageResult],
) -> dg.AssetsDefinition:
    """The asset of a training set."""

    @dg.asset(
        name=table,
        deps=deps,
        description=description,
        **place_in_graph(declared, stage="training"),
        pool=SPARK_POOL,
        kinds={"deltalake"},
        metadata={"dagster/column_schema": dg.TableSchema(list(columns))},
        check_specs=[dg.AssetCheckSpec(SEPARATE, asset=table, blocking=True, description=apart)],
    )
    @explain_errors
    def write_training_set(
        context: dg.AssetExecutionContext, config: TrainingSetConfig, settings: SettingsResource
    ) -> Iterator[Any]:
        from forecache.lake.quality.stage_checks import check_training_splits

        step = RunStep(context, settings.load())
        night = choose_training_night(declared, context, config.as_of)
        for source in declared.all_sources:
            ingest_pending_files(step, source, last=night)
        result = build(step, night)
        yield dg.MaterializeResult(
            metadata={**stage_metadata(step.settings, result), "as_of": str(night), **splits_view(result)}
        )
        found = check_training_splits(declared, result)
        yield checks.check_result(table, SEPARATE, checks.CheckVerdict(found.success, found.sentence), blocking=True)

    return write_training_set
