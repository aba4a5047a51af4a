"""Candidate: a model trained on the pinned training set. It lies in the folder of its run and is not registered yet."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.metadata import owners_of, stage_metadata
from assets.stage import RunStep, explain_errors
from assets.views import training_view
from forecache.base.results import StageResult
from forecache.declare import TorchModel, Trainable
from resources.settings import SettingsResource


def candidate_name(pipeline: Trainable) -> str:
    return f"candidate_{pipeline.name}"


def build_candidate(pipeline: Trainable) -> dg.AssetsDefinition:
    """The newest training run of a pipeline. A network resumes from its checkpoint, so that a retry is cheap."""

    @dg.asset(
        name=candidate_name(pipeline),
        ins={"training_set": dg.AssetIn(pipeline.training_table)},
        description=__doc__,
        group_name="training",
        kinds={"pytorch", "python"} if isinstance(pipeline.model, TorchModel) else {"python"},
        owners=owners_of(pipeline),
    )
    @explain_errors
    def train_candidate(
        context: dg.AssetExecutionContext, training_set: StageResult, settings: SettingsResource
    ) -> Iterator[Any]:
        from forecache.models.training.launch import train

        step = RunStep(context, settings.load())
        (night,) = training_set.nights
        result = step.run_stage(train, step.settings, pipeline, night)
        yield dg.MaterializeResult(
            value=result,
            metadata={**stage_metadata(step.settings, result), "night": str(night), **training_view(result)},
        )

    return train_candidate
