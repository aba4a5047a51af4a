"""A machine that searches hyperparameters: a process with its own home that stops or dies on the way."""

import os
import signal
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from registry_sample import NIGHT
from sample_project.pipelines.visits import returns

from forecache.base.errors import ForecacheError
from forecache.base.settings import load_settings
from forecache.base.steps import tune_step
from forecache.kit import lease
from forecache.models.training.spec import open_run_files
from forecache.plugins.tune import search
from forecache.plugins.tune.search import tune

TRAINED = "trained.txt"
"""A line for each training of a trial, of all machines."""


def be_searcher(fields: Mapping[str, Any], todo: Mapping[str, Any], own: Any) -> None:
    """Search with trainings that are made up, one at a time, and send what came of it.

    Args:
        fields: The settings.
        todo: `die` or `stop`: a step of `tune_step`, and how many of its kind come first; `log`: the folder of
            `TRAINED`; `holder`: fields of the lease's holder.
    """
    lease.TERM_S, lease.MARGIN_S, lease.LEASE = 9.0, 2.0, replace(lease.LEASE, every_s=0.5)
    this_process = lease.this_process
    lease.this_process = lambda *named: replace(this_process(*named), **todo.get("holder", {}))
    seen: dict[str, int] = {}

    def on_step(name: str) -> None:
        seen[name] = seen.get(name, 0) + 1
        if [name, seen[name]] == todo.get("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        if [name, seen[name]] == todo.get("stop"):
            own.send("stopped")
            own.recv()

    def make_up(_: Any, spec: Any, *, on_event: Any, threads: int, gpu: int | None, lease: Any) -> dict[str, Any]:
        with Path(todo["log"], TRAINED).open("a") as log:
            log.write(f"{sorted(asdict(spec.training).items())}\n")
        open_run_files(load_settings(**fields), spec.checkpoints).write("step-1/COMMITTED", b"")
        loss = 0.5 + spec.training.learning_rate
        on_event({"event": "epoch", "epoch": 0, "validation_loss": loss})
        return {"validation_loss": loss}

    def report(message: str, share: float | None) -> None:
        if "waiting for" in message:
            own.send("waiting")

    tune_step.on_step = on_step
    search.load_hook = lambda *_: make_up  # type: ignore[assignment]
    search.trial_slots = lambda *_: [None]
    try:
        own.send(tune(load_settings(**fields), returns, NIGHT, trials=4, progress=report))
    except ForecacheError as error:
        own.send((type(error).__name__, str(error)))
