"""Monitoring: drift of features and predictions since the champion was trained, and the champion's real performance.

The performance of an as-of date is known once its label horizon has passed, and is measured with the date that
completes it. The figures are rows of the table `monitoring`; the sensor of a pipeline that declares retraining reads
them.
"""

from collections.abc import Iterator
from datetime import date
from typing import Any

import dagster as dg

from assets.metadata import owners_of, stage_metadata
from assets.partitions import pipeline_partitions
from assets.stage import RunStep, explain_errors
from assets.views import monitoring_figures, monitoring_view
from forecache.base.plugins import load_hook
from forecache.declare import Pipeline, Retraining
from resources.settings import SettingsResource
from resources.spark import SparkResource

EXPECTED = "expected_performance"


def monitoring_name(pipeline: Pipeline) -> str:
    return f"monitoring_{pipeline.name}"


def _max_metric_drop(pipeline: Pipeline) -> float:
    drop = pipeline.retraining.max_metric_drop if pipeline.retraining else None
    return Retraining().max_metric_drop or 0.0 if drop is None else drop


def _performance_checks(pipeline: Pipeline, figures: list[Any], night: date) -> list[dg.AssetCheckResult]:
    """The check of the expected performance of an as-of date; empty for tasks without an estimate."""
    if pipeline.task not in ("binary", "multiclass"):
        return []
    metric = pipeline.trained_gate.metric
    found = next((m for m in figures if (m.night, m.kind, m.name) == (night, "estimate", metric)), None)
    if found is None:
        return [dg.AssetCheckResult(check_name=EXPECTED, passed=True, description=f"{metric} is not estimated.")]
    low, high = found.effect_low or 0.0, found.effect_high or 0.0
    said = (
        f"{metric} {found.value:.4f} is expected on {night}, {found.reference_value:.4f} was measured on the test "
        f"split: worse by {found.effect:.4f} ({low:.4f} to {high:.4f})."
    )
    passed = not (found.effect > _max_metric_drop(pipeline) and low > 0)
    return [
        dg.AssetCheckResult(
            check_name=EXPECTED, passed=passed, severity=dg.AssetCheckSeverity.WARN, description=said,
            metadata={"value": found.value or 0.0, "effect": found.effect, "effect_low": low, "effect_high": high},
        )
    ]  # fmt: skip


def build_monitoring(pipeline: Pipeline) -> dg.AssetsDefinition:
    """Drift and performance of a pipeline's as-of dates."""

    @dg.asset(
        name=monitoring_name(pipeline),
        deps=[pipeline.feature_table, pipeline.prediction_table],
        description=__doc__,
        group_name="monitoring",
        kinds={"deltalake", "python"},
        owners=owners_of(pipeline),
        partitions_def=pipeline_partitions(pipeline),
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=[
            dg.AssetCheckSpec(
                EXPECTED,
                asset=monitoring_name(pipeline),
                description="The gate's metric is not surely expected to be worse than on the test split, by more than "
                f"{_max_metric_drop(pipeline):g}, on the latest as-of date; labels are not known yet.",
            )
        ]
        if pipeline.task in ("binary", "multiclass")
        else [],
    )
    @explain_errors
    def measure_nights(
        context: dg.AssetExecutionContext, settings: SettingsResource, spark: SparkResource
    ) -> Iterator[Any]:
        step = RunStep(context, settings.load(), spark)
        current, nights = step.settings, step.nights
        result = step.run_stage(load_hook("drift", "monitor"), step.session, current, pipeline, nights)
        figures = load_hook("drift", "measurements")(current, pipeline.name, first=nights[0], last=nights[-1])
        for night in nights:
            context.add_asset_metadata(monitoring_figures(figures, night), partition_key=night.isoformat())
        decide = load_hook("drift", "retraining_decision")
        verdict = decide(current, pipeline).reason if pipeline.retraining else "no retraining is declared"
        notes = result.details["notes"][nights[-1].isoformat()]
        yield dg.MaterializeResult(
            metadata={
                **stage_metadata(current, result),
                "verdict": verdict,
                "figures": monitoring_view(figures, nights[-1]),
                **({"notes": "; ".join(notes)} if notes else {}),
            },
            check_results=_performance_checks(pipeline, figures, nights[-1]),
        )

    return measure_nights
