"""Checks of the distribution of an as-of date's scores: prediction drift, and the challenger against the champion."""

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

import dagster as dg

from assets import checks
from assets.metadata import markdown_table
from forecache.base.results import StageResult
from forecache.declare import Drift, Pipeline

DRIFT = "has_not_drifted"
CHALLENGER = "agrees_with_challenger"
_WARN, _ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR


def drift_specs(pipeline: Pipeline, partitions: dg.PartitionsDefinition[str]) -> list[dg.AssetCheckSpec]:
    """The check of drift and, if a challenger is declared, the one of its scores."""
    table, limits = pipeline.prediction_table, pipeline.drift
    specs = [
        dg.AssetCheckSpec(
            DRIFT,
            asset=table,
            blocking=limits.blocking,
            partitions_def=partitions,
            description=(
                f"{pipeline.main_output.name} against the {limits.last} nights before and the model's test split: "
                f"a PSI above {limits.small_psi:g} warns, above {limits.large_psi:g} is an error"
                f"{', and nothing is published' if limits.blocking else ''}."
            ),
        )
    ]
    if pipeline.shadow:
        about = "How far the challenger's scores are from the champion's. Only shown."
        specs.append(dg.AssetCheckSpec(CHALLENGER, asset=table, partitions_def=partitions, description=about))
    return specs


def drift_events(context: dg.AssetExecutionContext, pipeline: Pipeline, reports: Mapping[date, Any]) -> Iterator[Any]:
    """An evaluation for each as-of date: a small effect is a warning, a large one an error."""
    verdicts = {
        night: checks.CheckVerdict(
            report.level == "none", report.sentence, drift_view(report), _ERROR if report.level == "large" else _WARN
        )
        for night, report in reports.items()
    }
    yield from checks.check_events(
        context, pipeline.prediction_table, DRIFT, verdicts, blocking=pipeline.drift.blocking
    )


def drift_view(report: Any) -> dict[str, Any]:
    """The distances as a table and as figures, and the shares of rows in each bin."""
    rows = [
        (name, apart.reference_rows, apart.rows, apart.psi, apart.js, report.effect(name) or "not judged")
        for name, apart in report.distances.items()
    ]
    headers = ("against", "its rows", "rows", "PSI", "Jensen-Shannon", "effect")
    shares = {"this night": report.counts, **report.references}
    columns = [[f"{count / max(1, sum(counts)):.1%}" for count in counts] for counts in shares.values()]
    figures = {
        f"{name.replace(' ', '_')}_{figure}": getattr(apart, figure)
        for name, apart in report.distances.items()
        for figure in ("psi", "js")
    }
    return {
        "effect": report.level,
        **({"distances": markdown_table(headers, rows)} if rows else {}),
        **figures,
        "bins": markdown_table((report.output, *shares), zip(_bin_names(report.edges), *columns, strict=True)),
        **({"model_version": report.model_version} if report.model_version is not None else {}),
    }


def _bin_names(edges: tuple[float, ...] | tuple[str, ...]) -> list[str]:
    if not edges:
        return ["all"]
    if isinstance(edges[0], str):
        return [*map(str, edges), "other classes"]
    between = [f"{low:.4g} to {high:.4g}" for low, high in zip(edges, edges[1:], strict=False)]
    return [f"below {edges[0]:.4g}", *between, f"from {edges[-1]:.4g}"]


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
