"""Predictions: every entity of an as-of date, scored once by the champion. Partitioned by date; the table for SQL."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets import checks
from assets.metadata import place_in_graph, prediction_schema, stage_metadata
from assets.model import model_name
from assets.partitions import nightly_freshness, pipeline_partitions
from assets.stage import RunStep, explain_errors
from assets.views import scoring_view
from forecache.base.plugins import find_hooks
from forecache.declare import Pipeline, RegisteredModel, TorchModel
from resources.instance import SPARK_POOL
from resources.settings_resource import SettingsResource

FLOORS = "reaches_floors"


def build_predictions(pipeline: Pipeline) -> dg.AssetsDefinition:
    """The prediction table of a pipeline."""
    table = pipeline.prediction_table
    partitions = pipeline_partitions(pipeline)
    about = "Each entity once, every output there and in range. A date that fails is never published."

    @dg.asset(
        name=table,
        deps=[pipeline.feature_table, *_model_assets(pipeline)],
        description=f"{pipeline.description}\n\n{__doc__}",
        **place_in_graph(pipeline, stage="predictions"),
        pool=SPARK_POOL,
        kinds={"deltalake"} | ({"onnx"} if isinstance(pipeline.model, TorchModel) else set()),
        metadata={"dagster/column_schema": prediction_schema(pipeline)},
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        freshness_policy=nightly_freshness(pipeline),
        check_specs=[
            *checks.expectation_specs(table, partitions, about=about),
            *(spec for list_specs in find_hooks("score_check_specs") for spec in list_specs(pipeline, partitions)),
            *_floor_specs(pipeline),
        ],
    )
    @explain_errors
    def score_and_check(context: dg.AssetExecutionContext, settings: SettingsResource) -> Iterator[Any]:
        from forecache.lake.quality.stage_checks import check_predictions
        from forecache.operations.kept_features import keep_features
        from forecache.scoring.run import score_nights

        step = RunStep(context, settings.load())
        current, nights = step.settings, step.nights
        keep_features(step, pipeline, nights)
        result = step.run_stage(score_nights, current, pipeline, nights, rebuild=step.rebuild)
        yield dg.MaterializeResult(
            metadata={**stage_metadata(current, result), **scoring_view(current, pipeline, result)}
        )

        if "judged" in result.details:
            judged = result.details["judged"]
            yield checks.check_result(table, FLOORS, checks.CheckVerdict(judged["accepted"], judged["reason"]))
        yield from checks.expectation_events(context, table, check_predictions(step, pipeline, nights))
        for evaluate_scores in find_hooks("score_check_events"):
            yield from evaluate_scores(step, pipeline, result)

    return score_and_check


def _floor_specs(pipeline: Pipeline) -> list[dg.AssetCheckSpec]:
    """The check of a registered model that has floors; it never blocks, because the last accepted version scores."""
    if not isinstance(pipeline.model, RegisteredModel) or not pipeline.model.floors:
        return []
    about = f"The version that {pipeline.model.uri} means reaches its floors; else the last one that did scores."
    return [dg.AssetCheckSpec(FLOORS, asset=pipeline.prediction_table, description=about)]


def _model_assets(pipeline: Pipeline) -> list[str]:
    """The asset of the model; empty for a function or an SQL expression, which the declaration contains."""
    has_asset = pipeline.is_trained or isinstance(pipeline.model, RegisteredModel)
    return [model_name(pipeline)] if has_asset else []
