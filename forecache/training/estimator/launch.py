"""Run a training specification whose model is an estimator in a process of its own."""

import os
import sys
from typing import Any

from forecache.settings import Settings
from forecache.training.spec import SPEC_FILE, TrainingSpec
from forecache.training.torchrun import OnEvent, run_process


def run_estimator(settings: Settings, spec: TrainingSpec, *, on_event: OnEvent) -> dict[str, Any]:
    """Fit on all cores of this machine and return the run's `result.json`; raises what `run_torchrun` does."""
    return run_process(settings, spec, command(spec), on_event=on_event, threads=os.cpu_count())


def command(spec: TrainingSpec) -> list[str]:
    return [sys.executable, "-m", "forecache.training.estimator", "--spec", str(spec.folder / SPEC_FILE)]
