"""Monitoring: how far features and predictions moved since the champion was trained, and how well it turned out to do.

The performance of a night is known once its label horizon has passed, and belongs to the night that completes it. The
figures are rows of the table `monitoring`; where the pipeline declares when to train again, its sensor reads them.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.metadata import stage_metadata
from assets.partitions import pipeline_partitions
from assets.stage import Step, explained
from assets.views import monitoring_figures, monitoring_view
from forecache.pipeline import Pipeline
from resources.settings import SettingsResource
from resources.spark import SparkResource


def monitoring_name(pipeline: Pipeline) -> str:
    return f"monitoring_{pipeline.name}"


def build_monitoring(pipeline: Pipeline) -> dg.AssetsDefinition:
    """The figures of a pipeline's nights."""

    @dg.asset(
        name=monitoring_name(pipeline),
        deps=[pipeline.feature_table, pipeline.prediction_table],
        description=__doc__,
        group_name="monitoring",
        kinds={"deltalake", "python"},
        owners=[pipeline.owner],
        partitions_def=pipeline_partitions(pipeline),
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    @explained
    def monitoring(
        context: dg.AssetExecutionContext, settings: SettingsResource, spark: SparkResource
    ) -> Iterator[Any]:
        from forecache.monitoring.retraining import retraining_decision
        from forecache.monitoring.stage import monitor
        from forecache.monitoring.table import measurements

        step = Step(context, settings.load(), spark)
        current, nights = step.settings, step.nights
        result = step.run(monitor, step.session, current, pipeline, nights)
        figures = measurements(current, pipeline.name, first=nights[0], last=nights[-1])
        for night in nights:
            context.add_asset_metadata(monitoring_figures(figures, night), partition_key=night.isoformat())
        verdict = retraining_decision(current, pipeline).reason if pipeline.retraining else "no retraining is declared"
        notes = result.details["notes"][nights[-1].isoformat()]
        yield dg.MaterializeResult(
            metadata={
                **stage_metadata(current, result),
                "verdict": verdict,
                "figures": monitoring_view(figures, nights[-1]),
                **({"notes": "; ".join(notes)} if notes else {}),
            }
        )

    return monitoring
