"""Challenger: scores of a second model for the same as-of dates as the champion's. They are never published."""

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

import dagster as dg

from assets import checks
from assets.metadata import markdown_table, place_in_graph, prediction_schema
from assets.partitions import pipeline_partitions
from assets.stage import RunStep
from forecache.base.results import StageResult
from forecache.base.settings import Settings
from forecache.declare import Drift, Pipeline
from forecache.declare.project import Project

CHALLENGER = "agrees_with_challenger"
_WARN = dg.AssetCheckSeverity.WARN


def build_definitions(project: Project, settings: Settings) -> dg.Definitions:
    """The table of each pipeline that is declared with `shadow=True`."""
    return dg.Definitions(assets=[build_challenger(each) for each in project.pipelines.values() if each.shadow])


def build_challenger(pipeline: Pipeline) -> dg.AssetSpec:
    """The challenger's table; the asset of the prediction table writes it if a version has the alias `challenger`."""
    return dg.AssetSpec(
        pipeline.challenger_table,
        deps=[pipeline.feature_table],
        description=__doc__,
        **place_in_graph(pipeline, stage="predictions"),
        kinds={"deltalake"},
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


def check_challenger(step: RunStep, pipeline: Pipeline, result: StageResult) -> Iterator[Any]:
    """The materializations, and an evaluation for each as-of date; a challenger is meant to differ: it only warns."""
    if not pipeline.shadow:
        return
    yield from challenger_materializations(pipeline, result)
    challenger = result.details.get("challenger")
    verdicts = {night: _challenger_verdict(pipeline.drift, challenger, night) for night in step.nights}
    yield from checks.check_events(step.context, pipeline.prediction_table, CHALLENGER, verdicts)


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
