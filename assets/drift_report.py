"""Drift report: an HTML page on the drift of scores and features. No other asset depends on it.

It is written for the last as-of date of a run, from a sample, into the folder of reports and the model's MLflow run.
The verdict on drift is the check of the prediction table.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from assets.metadata import owners_of, stage_metadata
from assets.partitions import pipeline_partitions
from assets.stage import RunStep, explain_errors
from forecache.base.plugins import load_hook
from forecache.declare import Pipeline
from resources.settings import SettingsResource
from resources.spark import SparkResource

# Below the publisher's 0: predictions are published before reports about them are written.
_PRIORITY = {"dagster/priority": "-1"}


def drift_report_name(pipeline: Pipeline) -> str:
    return f"drift_report_{pipeline.name}"


def build_drift_report(pipeline: Pipeline) -> dg.AssetsDefinition:
    """The sampled report on a pipeline's predictions."""

    @dg.asset(
        name=drift_report_name(pipeline),
        deps=[pipeline.prediction_table],
        description=__doc__,
        group_name="monitoring",
        kinds={"html"},
        owners=owners_of(pipeline),
        partitions_def=pipeline_partitions(pipeline),
        backfill_policy=dg.BackfillPolicy.single_run(),
        op_tags=_PRIORITY,
    )
    @explain_errors
    def write_report(
        context: dg.AssetExecutionContext, settings: SettingsResource, spark: SparkResource
    ) -> Iterator[Any]:
        step = RunStep(context, settings.load(), spark)
        night = step.nights[-1]
        result = step.run_stage(
            load_hook("drift", "write_drift_report"), step.session(), step.settings, pipeline, night
        )
        details = result.details
        yield dg.MaterializeResult(
            metadata={
                **stage_metadata(step.settings, result),
                "night": str(night),
                "reference": details["reference"] or "nothing yet: no test split and no night before",
                **_page_metadata(details),
            }
        )

    return write_report


def _page_metadata(details: Mapping[str, Any]) -> dict[str, Any]:
    if not details["path"]:
        return {}
    return {
        "report": dg.MetadataValue.path(details["path"]),
        "mlflow_artifact": details["mlflow_artifact"] or "none: the model has no MLflow run",
        "reference_rows": details["reference_rows"],
        "columns": ", ".join(details["columns"]),
    }
