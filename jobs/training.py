"""The jobs that train a pipeline's model: training, the first run with all stages, and the hyperparameter search."""

import dagster as dg

from assets.candidate import candidate_name
from assets.model import model_name
from forecache.pipeline import Pipeline, Realtime
from jobs.common import AssetJob


def training_job_name(pipeline: Pipeline) -> str:
    return f"training_{pipeline.name}"


def training_selection(pipeline: Pipeline) -> dg.AssetSelection:
    return dg.AssetSelection.assets(pipeline.training_table, candidate_name(pipeline), model_name(pipeline))


def build_training_job(pipeline: Pipeline) -> AssetJob:
    """Train as of the newest date, or of the date in the configuration of the training set."""
    return dg.define_asset_job(
        training_job_name(pipeline),
        selection=training_selection(pipeline),
        description=f"Train {pipeline.name}, register the model and let the gate decide.",
        executor_def=dg.in_process_executor,
    )


def build_training_schedule(pipeline: Pipeline | Realtime, job: AssetJob) -> dg.ScheduleDefinition:
    """The training times of the pipeline's schedule, as of its newest as-of date."""
    schedule = pipeline.schedule
    return dg.ScheduleDefinition(
        name=f"{job.name}_schedule",
        job=job,
        cron_schedule=schedule.training,
        execution_timezone=schedule.time_zone,
        description=f"{schedule.training} ({schedule.time_zone}): train {pipeline.name} anew.",
    )
