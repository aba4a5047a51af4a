"""The training of an estimator, as a process of its own runs it."""

import os
import signal
from pathlib import Path
from typing import Any

from estimator_project.pipelines.trees import churn_trees
from registry_sample import NIGHT

from forecache.base.errors import ForecacheError
from forecache.base.settings import load_settings
from forecache.declare import Pipeline
from forecache.models.training.launch import train


def train_trees(home: Path, told: Any, pipeline: Pipeline = churn_trees) -> None:
    """Train, and tell the error that it ends with."""
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as some orchestrators' processes do
    try:
        train(load_settings(home=home, project="estimator_project"), pipeline, NIGHT)
    except ForecacheError as error:
        told.send(str(error))
