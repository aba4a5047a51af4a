"""Training set: features and labels of past nights, split by time so that no label reaches into a later split."""

from collections.abc import Callable, Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets import checks
from assets.metadata import feature_columns, key_columns, owners_of, stage_metadata
from assets.night import TrainingNight
from assets.stage import Step, explained
from assets.table import source_asset
from assets.views import splits_view
from assets.waiting import ingest_waiting
from forecache.pipeline import Pipeline, Realtime
from forecache.results import StageResult
from resources.settings import SettingsResource
from resources.spark import SparkResource

if TYPE_CHECKING:
    from forecache.quality.splits import Separation

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

    def build(step: Step, night: date) -> StageResult:
        from forecache.lake.training_sets import training_set as stage

        return step.run(stage.build_training_set, step.session(), step.settings, pipeline, night, rebuild=step.rebuild)

    def separate(result: StageResult) -> checks.Verdict:
        found = splits_found(result, label.horizon_days)
        return checks.Verdict(found.success, found.sentence)

    return training_set_asset(
        pipeline,
        pipeline.training_table,
        columns,
        deps=[source_asset(source) for source in pipeline.all_sources],
        description=__doc__,
        apart=f"{label.horizon_days} days or more lie between the splits, and none is empty.",
        build=build,
        separate=separate,
    )


def training_set_asset(
    declared: Pipeline | Realtime,
    table: str,
    columns: Sequence[dg.TableColumn],
    *,
    deps: Sequence[Any],
    description: str | None,
    apart: str,
    build: Callable[[Step, date], StageResult],
    separate: Callable[[StageResult], checks.Verdict],
) -> dg.AssetsDefinition:
    """The asset of a training set.

    Args:
        apart: Description of the check that the splits are apart.
        build: Writes the training set for an as-of date.
        separate: Returns the verdict of that check.
    """

    @dg.asset(
        name=table,
        deps=deps,
        description=description,
        group_name="training",
        kinds={"deltalake", "spark"},
        owners=owners_of(declared),
        metadata={"dagster/column_schema": dg.TableSchema(list(columns))},
        check_specs=[dg.AssetCheckSpec(SEPARATE, asset=table, blocking=True, description=apart)],
    )
    @explained
    def training_set(
        context: dg.AssetExecutionContext, config: TrainingNight, settings: SettingsResource, spark: SparkResource
    ) -> Iterator[Any]:
        step = Step(context, settings.load(), spark)
        night = config.resolve(declared, context)
        for source in declared.all_sources:
            ingest_waiting(step, source, last=night)
        result = build(step, night)
        yield dg.MaterializeResult(
            value=result,
            metadata={**stage_metadata(step.settings, result), "night": str(night), "splits": splits_view(result)},
        )
        yield checks.result(table, SEPARATE, separate(result), blocking=True)

    return training_set


def splits_found(result: StageResult, horizon_days: int) -> "Separation":
    """Check that the splits of a training set are apart, by the details of its stage."""
    from forecache.quality.splits import separation

    as_of = {split: [date.fromisoformat(day) for day in days] for split, days in result.details["as_of"].items()}
    return separation(as_of, result.details["splits"], horizon_days=horizon_days)
