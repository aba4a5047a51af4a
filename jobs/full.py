"""The first run of a pipeline: training, the gate, and the nightly job with the model that passed."""

import dagster as dg

from forecache.pipeline import Pipeline
from jobs.common import AssetJob
from jobs.nightly import nightly_selection
from jobs.training import training_selection


def full_job_name(pipeline: Pipeline) -> str:
    return f"full_{pipeline.name}"


def build_full_job(pipeline: Pipeline) -> AssetJob:
    """The first run of a pipeline: training, and then the nightly job with the model that passed the gate."""
    return dg.define_asset_job(
        full_job_name(pipeline),
        selection=training_selection(pipeline) | nightly_selection(pipeline),
        description=f"Train {pipeline.name}, then score and publish a night.",
        executor_def=dg.in_process_executor,
    )
