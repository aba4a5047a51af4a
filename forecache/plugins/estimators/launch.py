"""Training of estimators in one process, with the records of any other training run."""

import os
import sys

from forecache.base.settings import Settings
from forecache.declare import Trainable
from forecache.models.training.process import TrainingPlan, process_environment
from forecache.models.training.spec import LANES, SPEC_FILE


def plan_training(settings: Settings, pipeline: Trainable) -> TrainingPlan:
    """How this machine trains a pipeline's estimator."""
    return TrainingPlan(
        training=pipeline.training,
        lanes=LANES,
        resumes=False,
        workers="in one process",
        command=lambda spec: [
            *(sys.executable, "-m", "forecache.plugins.estimators", "--spec"),
            str(spec.folder / SPEC_FILE),
        ],
        environment=lambda: process_environment(settings, threads=os.cpu_count() or 1),
    )
