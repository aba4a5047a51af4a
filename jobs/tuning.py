"""The tuning job of a pipeline: one run that searches hyperparameters, each trial a child run in MLflow."""

from collections.abc import Iterator
from datetime import date
from typing import Any

import dagster as dg
from pydantic import Field

from assets.stage import Step, explained
from assets.views import tuning_view
from forecache.pipeline import Pipeline
from resources.settings import SettingsResource


class TuningConfig(dg.Config):
    """Configuration of a hyperparameter search."""

    trials: int = Field(20, ge=1, description="Finished trials in all; a search that was interrupted goes on.")


def tuning_job_name(pipeline: Pipeline) -> str:
    return f"tuning_{pipeline.name}"


def build_tuning_job(pipeline: Pipeline) -> dg.JobDefinition:
    """Search on the newest training set; the job shows the best values and changes no declaration."""

    @dg.op(name=f"tune_{pipeline.name}", description=f"Search the hyperparameters of {pipeline.name}.")
    @explained
    def tune_pipeline(
        context: dg.OpExecutionContext, config: TuningConfig, settings: SettingsResource
    ) -> Iterator[dg.Output[Any]]:
        from forecache.training.tuning.search import tune

        step = Step(context, settings.load())
        result = step.run(tune, step.settings, pipeline, date.today(), trials=config.trials)
        yield dg.Output(None, metadata=tuning_view(pipeline, result))

    @dg.job(
        name=tuning_job_name(pipeline),
        description=f"Search learning rate, weight decay and batch size of {pipeline.name} on its training set.",
        executor_def=dg.in_process_executor,
    )
    def tuning() -> None:
        tune_pipeline()

    return tuning
