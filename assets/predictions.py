"""Predictions: every entity of an as-of date, scored once by the champion. Partitioned by date; the table for SQL."""

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

import dagster as dg

from assets import checks
from assets.metadata import markdown_table, owners_of, prediction_schema, stage_metadata
from assets.model import model_name
from assets.partitions import nightly_freshness, pipeline_partitions
from assets.stage import RunStep, explain_errors
from assets.views import scoring_view
from forecache.base.plugins import find_hooks
from forecache.base.results import StageResult
from forecache.declare import Drift, Pipeline, RegisteredModel, TorchModel
from resources.settings_and_spark import SettingsResource, SparkResource

CHALLENGER = "agrees_with_challenger"
_WARN = dg.AssetCheckSeverity.WARN

_CHALLENGER = (
    """Challenger: scores of a second model for the same as-of dates as the champion's. They are never published."""
)


def build_challenger(pipeline: Pipeline) -> dg.AssetSpec:
    """The challenger's table; the asset of the prediction table writes it if a version has the alias `challenger`."""
    return dg.AssetSpec(
        pipeline.challenger_table,
        deps=[pipeline.feature_table],
        description=_CHALLENGER,
        group_name="predictions",
        kinds={"deltalake", "spark"},
        owners=owners_of(pipeline),
        metadata={"dagster/column_schema": prediction_schema(pipeline)},
        partitions_def=pipeline_partitions(pipeline),
    )


def challenger_specs(pipeline: Pipeline, partitions: dg.PartitionsDefinition[str]) -> list[dg.AssetCheckSpec]:
    """The check of the prediction table that compares the scores, if a challenger is declared."""
    about = "How far the challenger's scores are from the champion's. Only shown."
    spec = dg.AssetCheckSpec(CHALLENGER, asset=pipeline.prediction_table, partitions_def=partitions, description=about)
    return [spec] if pipeline.shadow else []


def challenger_materializations(pipeline: Pipeline, result: StageResult) -> Iterator[dg.AssetMaterialization]:
    """A materialization of the challenger's table for each as-of date that the scoring run wrote into it."""
    challenger = result.details.get("challenger", {"nights": {}})
    for night, found in challenger["nights"].items():
        if "error" not in found:
            yield dg.AssetMaterialization(
                asset_key=pipeline.challenger_table,
                partition=night,
                metadata={
                    "dagster/row_count": found["rows"],
                    "model": challenger["model"],
                    **_comparison_view(found["comparison"]),
                },
            )


def challenger_events(
    context: dg.AssetExecutionContext, pipeline: Pipeline, result: StageResult, nights: tuple[date, ...]
) -> Iterator[Any]:
    """An evaluation for each as-of date; a challenger is meant to differ, so a large effect is only a warning."""
    challenger = result.details.get("challenger")
    verdicts = {night: _challenger_verdict(pipeline.drift, challenger, night) for night in nights}
    yield from checks.check_events(context, pipeline.prediction_table, CHALLENGER, verdicts)


def _challenger_verdict(limits: Drift, challenger: Mapping[str, Any] | None, night: date) -> checks.CheckVerdict:
    if challenger is None:
        return checks.CheckVerdict(True, "There is no challenger: nothing was scored beside the champion.")
    found, model = challenger["nights"][night.isoformat()], challenger["model"]
    if "error" in found:
        return checks.CheckVerdict(False, f"{model} could not be scored: {found['error']}", severity=_WARN)
    comparison = found["comparison"]
    few = comparison["rows"] < limits.min_rows
    numbers = comparison["psi"] is not None
    effect = "none" if few or not numbers else limits.effect(comparison["psi"], comparison["js"])
    moved = [f"{count:,} rows change their {name}" for name, count in comparison["segment_changes"].items()]
    if not numbers:
        reason = f"{model} and the champion, of {comparison['rows']:,} rows: {', '.join(moved)}."
        return checks.CheckVerdict(True, reason, _comparison_view(comparison), _WARN)
    reason = ", ".join(
        [
            f"{model} differs by {comparison['mean_absolute_difference']:.4g} a row on average, "
            f"{comparison['mean_difference']:+.4g} in the mean",
            *moved,
            f"PSI {comparison['psi']:.3f}",
        ]
    )
    return checks.CheckVerdict(effect != "large", f"{reason}.", _comparison_view(comparison), _WARN)


def _comparison_view(comparison: Mapping[str, Any]) -> dict[str, Any]:
    figures = {name: value for name, value in comparison.items() if isinstance(value, int | float)}
    rows = [(name.replace("_", " "), value) for name, value in figures.items()]
    rows += [(f"rows that change their {name}", count) for name, count in comparison["segment_changes"].items()]
    plotted = ("mean_difference", "mean_absolute_difference", "psi", "js")
    return {
        "comparison": markdown_table(("challenger against champion", ""), rows),
        **{name: figures[name] for name in plotted if name in figures},
    }


FLOORS = "reaches_floors"


def build_predictions(pipeline: Pipeline) -> dg.AssetsDefinition:
    """The prediction table of a pipeline."""
    table = pipeline.prediction_table
    partitions = pipeline_partitions(pipeline)
    about = "Each entity once, every output there and in range. A night that fails is never published."

    @dg.asset(
        name=table,
        deps=[pipeline.feature_table, *_model_assets(pipeline)],
        description=f"{pipeline.description}\n\n{__doc__}",
        group_name="predictions",
        kinds={"deltalake", "spark"} | ({"onnx"} if isinstance(pipeline.model, TorchModel) else set()),
        owners=owners_of(pipeline),
        metadata={"dagster/column_schema": prediction_schema(pipeline)},
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        freshness_policy=nightly_freshness(pipeline),
        check_specs=[
            *checks.expectation_specs(table, partitions, about=about),
            *(spec for list_specs in find_hooks("score_check_specs") for spec in list_specs(pipeline, partitions)),
            *challenger_specs(pipeline, partitions),
            *_floor_specs(pipeline),
        ],
    )
    @explain_errors
    def score_and_check(
        context: dg.AssetExecutionContext, settings: SettingsResource, spark: SparkResource
    ) -> Iterator[Any]:
        from forecache.lake.quality.stage_checks import check_predictions
        from forecache.operations.rollback import recover_interrupted
        from forecache.scoring.run import score_nights

        step = RunStep(context, settings.load(), spark)
        current, nights = step.settings, step.nights
        recover_interrupted(current, pipeline, progress=step.progress)
        result = step.run_stage(score_nights, step.session(), current, pipeline, nights, rebuild=step.rebuild)
        yield dg.MaterializeResult(
            metadata={**stage_metadata(current, result), **scoring_view(current, pipeline, result)}
        )

        if "judged" in result.details:
            judged = result.details["judged"]
            yield checks.check_result(table, FLOORS, checks.CheckVerdict(judged["accepted"], judged["reason"]))
        yield from checks.expectation_events(context, table, check_predictions(step, pipeline, nights))
        for evaluate_scores in find_hooks("score_check_events"):
            yield from evaluate_scores(step, pipeline)
        if pipeline.shadow:
            yield from challenger_materializations(pipeline, result)
            yield from challenger_events(context, pipeline, result, nights)

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
