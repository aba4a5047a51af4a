"""The job of Dagster that searches hyperparameters."""

from collections.abc import Iterator
from datetime import date
from typing import Any

import dagster as dg
from pydantic import Field

from assets.metadata import markdown_table
from assets.stage import RunStep, explain_errors
from forecache.base.results import StageResult
from forecache.base.settings import Settings
from forecache.declare import TorchModel, Trainable
from forecache.declare.project import Project
from jobs.schedules import build_op_job
from resources.instance import TUNING_POOL
from resources.settings_resource import SettingsResource


def build_definitions(project: Project, settings: Settings) -> dg.Definitions:
    """A job for each network; an estimator's parameters are its own, and its library searches them."""
    networks = [each for each in project.trained_models.values() if isinstance(each.model, TorchModel)]
    return dg.Definitions(jobs=[build_tuning_job(each) for each in networks])


class TuningConfig(dg.Config):
    """Configuration of a hyperparameter search."""

    trials: int = Field(20, ge=1, description="Finished trials in all; a search that was interrupted goes on.")


def tuning_job_name(pipeline: Trainable) -> str:
    return f"{pipeline.name}_tuning"


def build_tuning_job(pipeline: Trainable) -> dg.JobDefinition:
    """Search on the newest training set; the job shows the best values and changes no declaration."""

    @dg.op(
        name=f"tune_{pipeline.name}",
        pool=TUNING_POOL,
        description=f"Search the hyperparameters of {pipeline.name}.",
    )
    @explain_errors
    def tune_pipeline(
        context: dg.OpExecutionContext, config: TuningConfig, settings: SettingsResource
    ) -> Iterator[dg.Output[Any]]:
        from forecache.plugins.tune.search import tune

        step = RunStep(context, settings.load())
        result = step.run_stage(tune, step.settings, pipeline, date.today(), trials=config.trials)
        yield dg.Output(None, metadata=_tuning_view(pipeline, result))

    about = f"Search learning rate, weight decay and batch size of {pipeline.name} on its training set."
    return build_op_job(tune_pipeline, tuning_job_name(pipeline), about)


def _tuning_view(pipeline: Trainable, result: StageResult) -> dict[str, Any]:
    """A search of hyperparameters: the declared values against the best, and counts of its trials."""
    details = result.details
    rows = [(name, getattr(pipeline.training, name), value) for name, value in details["best"].items()]
    rows.append(("validation loss", details["declared_loss"], details["best_loss"]))
    shown = ("trials", "pruned", "failed", "parallel", "best_loss", "mlflow_run_id", "training_version")
    return {
        **{name: details[name] for name in shown},
        "best": markdown_table(("", "declared", "best"), rows),
        "skipped": result.skipped,
    }
