"""The jobs that train a pipeline's model: training, the first run with all stages, and the hyperparameter search."""

from collections.abc import Iterator
from datetime import date
from typing import Any

import dagster as dg
from pydantic import Field

from assets.candidate import candidate_name
from assets.model import model_name
from assets.stage import RunStep, explain_errors
from assets.views import tuning_view
from forecache.base.plugins import load_hook
from forecache.declare import Pipeline, Trainable
from jobs.nightly import nightly_selection
from jobs.schedules import AssetJob, build_asset_job, build_cron_schedule, build_op_job
from resources.settings import SettingsResource


def training_job_name(pipeline: Trainable) -> str:
    return f"training_{pipeline.name}"


def training_selection(pipeline: Trainable) -> dg.AssetSelection:
    return dg.AssetSelection.assets(pipeline.training_table, candidate_name(pipeline), model_name(pipeline))


def build_training_job(pipeline: Pipeline) -> AssetJob:
    """Train as of the newest date, or of the date in the configuration of the training set."""
    about = f"Train {pipeline.name}, register the model and let the gate decide."
    return build_asset_job(training_job_name(pipeline), about, training_selection(pipeline))


def build_training_schedule(pipeline: Trainable, job: AssetJob) -> dg.ScheduleDefinition:
    """The training times of the pipeline's schedule, as of its newest as-of date."""
    schedule = pipeline.schedule
    about = f"{schedule.training} ({schedule.time_zone}): train {pipeline.name} anew."
    return build_cron_schedule(job, schedule.training, about, time_zone=schedule.time_zone)


def full_job_name(pipeline: Trainable) -> str:
    return f"full_{pipeline.name}"


def build_full_job(pipeline: Pipeline) -> AssetJob:
    """The first run of a pipeline: training, and then the nightly job with the model that passed the gate."""
    about = f"Train {pipeline.name}, then score and publish a night."
    return build_asset_job(full_job_name(pipeline), about, training_selection(pipeline) | nightly_selection(pipeline))


class TuningConfig(dg.Config):
    """Configuration of a hyperparameter search."""

    trials: int = Field(20, ge=1, description="Finished trials in all; a search that was interrupted goes on.")


def tuning_job_name(pipeline: Trainable) -> str:
    return f"tuning_{pipeline.name}"


def build_tuning_job(pipeline: Trainable) -> dg.JobDefinition:
    """Search on the newest training set; the job shows the best values and changes no declaration."""

    @dg.op(name=f"tune_{pipeline.name}", description=f"Search the hyperparameters of {pipeline.name}.")
    @explain_errors
    def tune_pipeline(
        context: dg.OpExecutionContext, config: TuningConfig, settings: SettingsResource
    ) -> Iterator[dg.Output[Any]]:
        step = RunStep(context, settings.load())
        result = step.run_stage(load_hook("tune", "tune"), step.settings, pipeline, date.today(), trials=config.trials)
        yield dg.Output(None, metadata=tuning_view(pipeline, result))

    about = f"Search learning rate, weight decay and batch size of {pipeline.name} on its training set."
    return build_op_job(tune_pipeline, tuning_job_name(pipeline), about)
