"""How a training specification whose model is an estimator is run: in one process."""

import sys

from forecache.training.spec import SPEC_FILE, TrainingSpec


def command(spec: TrainingSpec) -> list[str]:
    """The command line."""
    return [sys.executable, "-m", "forecache.training.estimator", "--spec", str(spec.folder / SPEC_FILE)]
