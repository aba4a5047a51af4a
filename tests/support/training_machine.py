"""A machine that trains, registers and judges a model: a process with its own home that stops or dies on the way."""

import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from estimator_project.pipelines.trees import churn_trees
from registry_sample import NIGHT

from forecache.base.errors import ForecacheError
from forecache.base.settings import load_settings
from forecache.base.steps import training_step
from forecache.kit import lease
from forecache.models.registry.register import register_trained_model
from forecache.models.registry.run_gate import run_gate
from forecache.models.training import launch
from forecache.models.training.launch import train

FITTING = "fitting"
"""The step of a training at which another machine finds that it has begun."""


def be_machine(fields: Mapping[str, Any], todo: Mapping[str, Any], own: Any) -> None:
    """Train, register and judge, and send what came of it.

    Args:
        fields: The settings.
        todo: `stop` or `die` at a step of `training_step`, or at `FITTING`; `holder`: fields of the lease's holder;
            `term_s` of leases.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    lease.TERM_S, lease.MARGIN_S = todo.get("term_s", 60.0), 0.5
    lease.LEASE = replace(lease.LEASE, every_s=0.5)
    this_process = lease.this_process
    lease.this_process = lambda *named: replace(this_process(*named), **todo.get("holder", {}))

    def on_step(name: str) -> None:
        if name == todo.get("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        if name == todo.get("stop"):
            own.send(name)
            own.recv()

    share_progress = launch.RunFiles.share_progress

    def share_and_stop(files: Any, **how: Any) -> str:
        reason = share_progress(files, **how)
        on_step(FITTING)
        return reason

    def report(message: str, share: float | None) -> None:
        if "waiting for" in message:
            own.send("waiting")

    training_step.on_step = on_step
    launch.RunFiles.share_progress = share_and_stop  # type: ignore[method-assign]
    settings = load_settings(**fields)
    try:
        trained = train(settings, churn_trees, NIGHT, progress=report)
        registered = register_trained_model(settings, churn_trees, trained)
        verdict = run_gate(settings, churn_trees, registered.details["model_version"], actor="machine")
    except ForecacheError as error:
        own.send((type(error).__name__, str(error)))
        return
    own.send({"trained": trained, "version": registered.details["model_version"], "champion": verdict.champion_after})
