"""The Optuna study of a search, in a journal file: its search space, finished trials, and interrupted trials."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecache.declare import Trainable, Training

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

ERROR = "error"
"""User attribute of a trial that failed because of its values: the error message of its training."""

_BATCH_SIZES = (256, 512, 1024, 2048, 4096)
_START_UP_TRIALS = 4
_WARM_UP_EPOCHS = 2


def open_study(folder: Path, pipeline: Trainable) -> "Study":
    """The study in the folder, or a new one, whose first trial is the declaration."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name=pipeline.name,
        storage=JournalStorage(JournalFileBackend(str(folder / "study.journal"))),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_START_UP_TRIALS, n_warmup_steps=_WARM_UP_EPOCHS),
        load_if_exists=True,
    )
    known = len(study.get_trials(deepcopy=False))
    # A resumed search must not draw the same values again.
    study.sampler = optuna.samplers.TPESampler(seed=pipeline.training.seed + known, constant_liar=True)
    if not known:
        study.enqueue_trial(declared_values(pipeline.training))
    return study


def declared_values(training: Training) -> dict[str, Any]:
    """The declared values of the parameters that a trial varies."""
    return {name: getattr(training, name) for name in ("learning_rate", "weight_decay", "batch_size")}


def suggest(trial: "Trial", training: Training) -> Training:
    """The declared training with this trial's values; the ranges include the declared values."""
    sizes = sorted({*_BATCH_SIZES, training.batch_size})
    rate, decay = training.learning_rate, training.weight_decay
    return replace(
        training,
        learning_rate=trial.suggest_float("learning_rate", min(1e-4, rate), max(3e-2, rate), log=True),
        # No logarithmic range includes zero.
        weight_decay=trial.suggest_float("weight_decay", min(1e-6, decay), max(1e-2, decay), log=decay > 0),
        batch_size=trial.suggest_categorical("batch_size", sizes),
    )


def finished_trials(study: "Study") -> list["FrozenTrial"]:
    """Trials that are complete, pruned, or failed because of their values rather than by an interruption."""
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.state.name in ("COMPLETE", "PRUNED") or ERROR in trial.user_attrs]


def requeue_interrupted(study: "Study") -> None:
    """Queue the trials that ran when the process was killed again, to continue from their checkpoints."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if trial.params:
            study.enqueue_trial(trial.params)
        study.tell(trial.number, state=TrialState.FAIL)


class PruneTrial(Exception):
    """Ends a trial that is worse than the median of the others at the same epoch."""


class StopSearch(Exception):
    """Ends a trial because the search was stopped."""
