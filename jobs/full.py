"""The first run of a pipeline: train, let the gate decide, and score and publish a night with what it let through."""

import dagster as dg

from assets.published import published_name
from forecache.pipeline import Pipeline
from jobs.common import AssetJob
from jobs.training import training_selection


def full_job_name(pipeline: Pipeline) -> str:
    return f"full_{pipeline.name}"


def build_full_job(pipeline: Pipeline) -> AssetJob:
    """Training and the nightly job in one run, in that order."""
    nightly = dg.AssetSelection.assets(pipeline.feature_table, pipeline.prediction_table, published_name(pipeline))
    return dg.define_asset_job(
        full_job_name(pipeline),
        selection=training_selection(pipeline) | nightly,
        description=f"Train {pipeline.name}, then score and publish a night.",
        executor_def=dg.in_process_executor,
    )
