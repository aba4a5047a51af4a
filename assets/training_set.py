"""Training set: features and labels of past nights, split by time so that no label reaches into a later split."""

from collections.abc import Iterator
from datetime import date
from typing import Any

import dagster as dg

from assets import checks
from assets.metadata import feature_columns, key_columns, stage_metadata
from assets.night import TrainingNight
from assets.stage import Step, explained
from assets.table import source_asset
from assets.views import splits_view
from assets.waiting import ingest_waiting
from forecache.pipeline import Pipeline
from resources.settings import SettingsResource
from resources.spark import SparkResource

SEPARATE = "splits_are_apart"


def build_training_set(pipeline: Pipeline) -> dg.AssetsDefinition:
    """The training set of a pipeline; each build is a Delta version, which the model's run pins."""
    table, label = pipeline.training_table, pipeline.trained_label
    columns = [
        *key_columns(pipeline),
        dg.TableColumn("split", "string", description="train, validation or test."),
        *feature_columns(pipeline),
        dg.TableColumn(label.name, "double", description=f"Label, over the next {label.horizon_days} days."),
    ]

    @dg.asset(
        name=table,
        deps=[source_asset(source) for source in pipeline.all_sources],
        description=__doc__,
        group_name="training",
        kinds={"deltalake", "spark"},
        owners=[pipeline.owner],
        metadata={"dagster/column_schema": dg.TableSchema(columns)},
        check_specs=[
            dg.AssetCheckSpec(
                SEPARATE,
                asset=table,
                blocking=True,
                description=f"{label.horizon_days} days or more lie between the splits, and none is empty.",
            )
        ],
    )
    @explained
    def training_set(
        context: dg.AssetExecutionContext, config: TrainingNight, settings: SettingsResource, spark: SparkResource
    ) -> Iterator[Any]:
        from forecache.lake.training_sets.training_set import build_training_set as build
        from forecache.quality.splits import separation

        step = Step(context, settings.load(), spark)
        night = config.resolve(pipeline, context)
        for source in pipeline.all_sources:
            ingest_waiting(step, source, last=night)
        result = step.run(build, step.session(), step.settings, pipeline, night, rebuild=step.rebuild)
        yield dg.MaterializeResult(
            value=result,
            metadata={**stage_metadata(step.settings, result), "night": str(night), "splits": splits_view(result)},
        )
        as_of = {split: [date.fromisoformat(day) for day in days] for split, days in result.details["as_of"].items()}
        found = separation(as_of, result.details["splits"], horizon_days=label.horizon_days)
        yield checks.result(table, SEPARATE, checks.Verdict(found.success, found.sentence), blocking=True)

    return training_set
