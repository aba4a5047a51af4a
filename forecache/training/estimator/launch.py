"""The command that fits a specification's estimator, in one process."""

import sys

from forecache.training.spec import SPEC_FILE, TrainingSpec


def command(spec: TrainingSpec) -> list[str]:
    """The command line for a specification."""
    return [sys.executable, "-m", "forecache.training.estimator", "--spec", str(spec.folder / SPEC_FILE)]
