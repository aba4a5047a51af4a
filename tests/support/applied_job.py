"""Scores a night with a model that is not trained here, in a process of its own that may kill itself by its record."""

import os
import signal
from typing import Any

from applied_sample import applied
from rules_project.pipelines.rules import rules
from scoring_support import NIGHT

from forecache.declare import FunctionModel, Labelled, Pipeline, RegisteredModel


def pipeline_of(kind: str) -> Pipeline:
    """The pipeline `demo` with a function, or with a registered model that has to reach a floor."""
    if kind == "function":
        return applied(FunctionModel(rules))
    judged_on = Labelled("labelled", "churned")
    returns = {"probability": "prediction[1]"}
    return applied(
        RegisteredModel("models:/churn_model@production", returns=returns, judged_on=judged_on, floors={"roc_auc": 0.8})
    )


def score_night(home: str, kind: str, when: str) -> None:
    """Score, and die `before` or `after` the record of the model's number or verdict is written, or `never`."""
    from forecache.base.settings import load_settings
    from forecache.lake.stage_runner import Stage
    from forecache.models.registry.applied import pipeline_models, resolve
    from forecache.scoring.run import score

    stage_name = {"function": resolve.STAGE, "registered": pipeline_models.STAGE}[kind]
    record = Stage.record

    def killed(stage: Stage, *given: Any) -> Any:
        is_killed = stage.name == stage_name and when != "never"
        if not is_killed or when == "after":
            recorded = record(stage, *given)
        if is_killed:
            os.kill(os.getpid(), signal.SIGKILL)
        return recorded

    Stage.record = killed  # type: ignore[method-assign]
    score(load_settings(home=home), pipeline_of(kind), [NIGHT], engine="arrow")
