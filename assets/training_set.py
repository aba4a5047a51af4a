"""Training set: features and labels of past nights, split by time so that no label reaches into a later split."""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import dagster as dg
from pydantic import Field

from assets import checks
from assets.metadata import feature_columns, key_columns, markdown_table, stage_metadata
from assets.stage import RETRIES, explained, run_stage
from forecache.pipeline import Pipeline
from forecache.results import StageResult
from resources.settings import SettingsResource
from resources.spark import SparkResource

SEPARATE = "splits_are_apart"


class TrainingNight(dg.Config):
    """What to train as of."""

    night: str = Field("", description="Night (YYYY-MM-DD) as of which to train. Default: the newest one.")

    def resolve(self, pipeline: Pipeline, context: dg.AssetExecutionContext) -> date:
        """The configured night, else the run's last partition, else the pipeline's newest night."""
        tags = context.run.tags
        text = self.night or tags.get("dagster/asset_partition_range_end") or tags.get("dagster/partition")
        if text:
            return date.fromisoformat(text)
        return newest_night(pipeline)


def build_training_set(pipeline: Pipeline) -> dg.AssetsDefinition:
    """The training set of a pipeline; each build is a Delta version, which the model's run pins."""
    table, label = pipeline.training_table, pipeline.label
    columns = [
        *key_columns(pipeline),
        dg.TableColumn("split", "string", description="train, validation or test."),
        *feature_columns(pipeline),
        dg.TableColumn(label.name, "double", description=f"Label, over the next {label.horizon_days} days."),
    ]

    @dg.asset(
        name=table,
        deps=[source.raw_table for source in pipeline.sources],
        description=__doc__,
        group_name="training",
        kinds={"deltalake", "spark"},
        owners=[pipeline.owner],
        metadata={"dagster/column_schema": dg.TableSchema(columns)},
        retry_policy=RETRIES,
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
        from forecache.lake.training_set import build_training_set as build

        current = settings.load()
        night = config.resolve(pipeline, context)
        result = run_stage(
            context,
            lambda progress: build(spark.session(), current, pipeline, night, run_id=context.run_id, progress=progress),
        )
        yield dg.MaterializeResult(
            value=result,
            metadata={**stage_metadata(current, result), "night": str(night), "splits": _splits(result)},
        )
        yield checks.result(table, SEPARATE, _separation(result, label.horizon_days))

    return training_set


def newest_night(pipeline: Pipeline) -> date:
    """Yesterday in UTC, or the last day of a pipeline whose data has ended."""
    from datetime import datetime, timezone

    from forecache.lake.features import last_night

    return last_night(pipeline, datetime.now(timezone.utc).date())


def _splits(result: StageResult) -> dg.MarkdownMetadataValue:
    details = result.details
    rows = [
        (split, ", ".join(dates), details["splits"][split], sum(details["label_mean"][d] for d in dates) / len(dates))
        for split, dates in details["as_of"].items()
    ]
    return markdown_table(("split", "as-of dates", "rows", "mean label"), rows)


def _separation(result: StageResult, horizon_days: int) -> checks.Verdict:
    dates = {split: [date.fromisoformat(day) for day in days] for split, days in result.details["as_of"].items()}
    empty = [split for split, rows in result.details["splits"].items() if not rows]
    gaps = [
        min(dates[later]) - max(dates[earlier]) for earlier, later in (("train", "validation"), ("validation", "test"))
    ]
    if empty:
        return checks.Verdict(False, f"The {empty[0]} split is empty.")
    if min(gaps) < timedelta(days=horizon_days):
        return checks.Verdict(False, f"Only {min(gaps).days} days lie between two splits: labels reach across.")
    return checks.Verdict(True, f"{min(gaps).days} days or more lie between the splits; none is empty.")
