"""A search for better hyperparameters: Optuna's TPE, trials in parallel, the hopeless ones ended early, resumable.

The study lives in a journal file in the run's folder, each trial is a training run of its own (without export) and a
child run in MLflow. The first trial is the declaration as it stands, so that the best is never worse than that. A
search changes no declaration: it says which values to write there.
"""

import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecache.errors import ConflictError, InputError, SettingsError
from forecache.lake.ledger import StageRecord, record
from forecache.pipeline import Pipeline, TorchModel, Training
from forecache.registry.models import tracking
from forecache.registry.runs import experiment_of
from forecache.results import Progress, StageResult, no_progress
from forecache.settings import Settings
from forecache.training.launch import pinned_version, training_inputs
from forecache.training.spec import TrainingSpec, checkpoints_of
from forecache.training.torchrun import run_torchrun

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

STAGE = "tune"
_BATCH_SIZES = (256, 512, 1024, 2048, 4096)
_START_UP_TRIALS = 4
_WARM_UP_EPOCHS = 2
_ERROR = "error"


class _Pruned(Exception):
    """A trial is worse than the median of the others at the same epoch."""


class _Stopped(Exception):
    """The search was told to end."""


def tune(
    settings: Settings,
    pipeline: Pipeline,
    night: date,
    *,
    trials: int = 20,
    run_id: str = "",
    progress: Progress = no_progress,
) -> StageResult:
    """Search learning rate, weight decay and batch size for the least validation loss on the pinned training set.

    A search that was interrupted goes on: its finished trials count, those that ran resume from their checkpoints.
    As many trials run at once as the machine has cores, each with one worker.

    Returns:
        `rows`: finished trials. `details`: best (values of `Training`), best_loss, declared_loss, trials, pruned,
        failed, parallel, mlflow_run_id, inputs.

    Raises:
        SettingsError: The model is an estimator, whose parameters are its own.
        NotFoundError: There is no training set yet.
        ConflictError: Another process searches on the same inputs.
        InputError: No trial came to an end with a validation loss.
    """
    started = time.perf_counter()
    if not isinstance(pipeline.model, TorchModel):
        raise SettingsError(
            f"Pipeline {pipeline.name!r} has an estimator, and the search tries learning rates of networks.",
            remedy="Search its parameters with scikit-learn or Optuna, and write the best into `build`.",
        )
    version = pinned_version(settings, pipeline)
    inputs = training_inputs(pipeline, version)
    folder = settings.training_path / pipeline.name / f"tune-{hashlib.sha256(inputs.encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    with _only_one(folder):
        study = _open_study(folder, pipeline)
        _requeue_interrupted(study)
        search = _Search(settings, pipeline, night, study, folder, version, inputs, trials, progress)
        ran = search.run()
    details = {**search.summary(), "inputs": inputs, "training_version": version}
    seconds = time.perf_counter() - started
    finished = details["trials"]
    if ran:
        row = StageRecord(STAGE, pipeline.name, None, inputs, "", -1, finished, seconds, details, run_id=run_id)
        record(settings, [row])
    return StageResult(STAGE, pipeline.name, finished, seconds, nights=(night,), skipped=not ran, details=details)


class _Search:
    """One call of `tune`: hands out trials to threads until enough are finished."""

    def __init__(
        self,
        settings: Settings,
        pipeline: Pipeline,
        night: date,
        study: "Study",
        folder: Path,
        version: int,
        inputs: str,
        trials: int,
        progress: Progress,
    ) -> None:
        self.settings = settings.model_copy(update={"training_workers": 1, "training_nodes": "1"})
        self.pipeline, self.night, self.study, self.folder = pipeline, night, study, folder
        self.version, self.inputs, self.trials, self.progress = version, inputs, trials, progress
        self.client = tracking(settings)
        self.experiment = experiment_of(settings, self.client, pipeline)
        self.parent = self._parent_run()
        self.remaining = trials - len(_finished(study))
        self.parallel = max(1, min(os.cpu_count() or 1, self.remaining))
        self._lock, self._stop = threading.Lock(), threading.Event()

    def run(self) -> int:
        """Run the trials that are missing; returns how many that were."""
        missing = max(0, self.remaining)
        if missing:
            with ThreadPoolExecutor(self.parallel, thread_name_prefix="trial") as pool:
                futures = [pool.submit(self._one) for _ in range(missing)]
                try:
                    for future in futures:
                        future.result()
                except BaseException:
                    self._stop.set()
                    for future in futures:
                        future.cancel()
                    raise
            self.client.set_terminated(self.parent)
        return missing

    def summary(self) -> dict[str, Any]:
        """What the search found, over all its calls."""
        complete = [trial for trial in _finished(self.study) if trial.state.name == "COMPLETE"]
        if not complete:
            errors = [trial.user_attrs[_ERROR] for trial in _finished(self.study) if _ERROR in trial.user_attrs]
            raise InputError(
                f"None of {len(errors)} trials of {self.pipeline.name!r} came to an end: {errors[0] if errors else ''}",
                remedy="Check the label and the features for extreme values.",
            )
        best = min(complete, key=lambda trial: float(trial.value or 0.0))
        states = [trial.state.name for trial in _finished(self.study)]
        declared = [trial.value for trial in complete if trial.params == _declared(self.pipeline.training)]
        return {
            "best": best.params,
            "best_loss": best.value,
            "declared_loss": declared[0] if declared else None,
            "trials": len(states),
            "pruned": states.count("PRUNED"),
            "failed": states.count("FAIL"),
            "parallel": self.parallel,
            "mlflow_run_id": self.parent,
        }

    def _one(self) -> None:
        from optuna.trial import TrialState

        with self._lock:
            trial = self.study.ask()
            training = _suggest(trial, self.pipeline.training)
        child = self._child_run(trial.number, training)
        try:
            result = run_torchrun(self.settings, self._spec(training), on_event=self._watch(trial, child), threads=1)
        except _Pruned:
            self._tell(trial, child, TrialState.PRUNED, "KILLED")
        except InputError as error:
            trial.set_user_attr(_ERROR, error.message)
            self._tell(trial, child, TrialState.FAIL, "FAILED")
        except BaseException:
            self.client.set_terminated(child, status="KILLED")
            raise
        else:
            self._tell(trial, child, TrialState.COMPLETE, "FINISHED", result["validation_loss"])

    def _tell(self, trial: "Trial", child: str, state: Any, status: str, value: float | None = None) -> None:
        with self._lock:
            self.study.tell(trial, value, state=state)
            done = len(_finished(self.study))
        self.client.set_tag(child, "forecache.trial_state", state.name.lower())
        self.client.set_terminated(child, status=status)
        what = f"validation loss {value:.4f}" if value is not None else state.name.lower()
        self.progress(f"tuning {self.pipeline.name}: trial {trial.number} {what}", min(1.0, done / self.trials))

    def _watch(self, trial: "Trial", child: str) -> Any:
        def on_event(event: dict[str, Any]) -> None:
            if self._stop.is_set():
                raise _Stopped
            if event["event"] == "epoch":
                self.client.log_metric(child, "validation_loss", event["validation_loss"], step=event["epoch"])
                trial.report(event["validation_loss"], event["epoch"])
                if trial.should_prune():
                    raise _Pruned

        return on_event

    def _spec(self, training: Training) -> TrainingSpec:
        inputs = f"{self.inputs} trial={sorted(asdict(training).items())}"
        folder = self.folder / hashlib.sha256(inputs.encode()).hexdigest()[:16]
        return TrainingSpec(
            run_dir=str(folder),
            pipeline=self.pipeline.name,
            table_uri=self.settings.table_uri(self.pipeline.training_table),
            table_version=self.version,
            inputs=inputs,
            training=training,
            device=self.settings.device,
            keep_checkpoints=1,
            checkpoints=checkpoints_of(self.settings, folder),
            export=False,
        )

    def _parent_run(self) -> str:
        known = self.study.user_attrs.get("mlflow_run_id")
        if known:
            return str(known)
        tags = {"mlflow.runName": f"tune {self.pipeline.name} {self.night}", "forecache.pipeline": self.pipeline.name}
        run: str = self.client.create_run(self.experiment, tags=tags).info.run_id
        self.study.set_user_attr("mlflow_run_id", run)
        return run

    def _child_run(self, number: int, training: Training) -> str:
        tags = {"mlflow.runName": f"trial {number}", "mlflow.parentRunId": self.parent}
        run: str = self.client.create_run(self.experiment, tags=tags).info.run_id
        for name, value in asdict(training).items():
            self.client.log_param(run, name, value)
        return run


def _open_study(folder: Path, pipeline: Pipeline) -> "Study":
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    new = not (folder / "study.journal").exists()
    study = optuna.create_study(
        study_name=pipeline.name,
        storage=JournalStorage(JournalFileBackend(str(folder / "study.journal"))),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_START_UP_TRIALS, n_warmup_steps=_WARM_UP_EPOCHS),
        load_if_exists=True,
    )
    # A search that goes on must not draw again what it drew before.
    seed = pipeline.training.seed + len(study.get_trials(deepcopy=False))
    study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    if new:
        study.enqueue_trial(_declared(pipeline.training))
    return study


def _declared(training: Training) -> dict[str, Any]:
    return {name: getattr(training, name) for name in ("learning_rate", "weight_decay", "batch_size")}


def _suggest(trial: "Trial", training: Training) -> Training:
    """The declaration with this trial's values; the ranges include what is declared."""
    sizes = sorted({*_BATCH_SIZES, training.batch_size})
    return replace(
        training,
        learning_rate=trial.suggest_float(
            "learning_rate", min(1e-4, training.learning_rate), max(3e-2, training.learning_rate), log=True
        ),
        weight_decay=trial.suggest_float(
            "weight_decay", min(1e-6, training.weight_decay or 1e-6), max(1e-2, training.weight_decay), log=True
        ),
        batch_size=trial.suggest_categorical("batch_size", sizes),
    )


def _finished(study: "Study") -> list["FrozenTrial"]:
    """Trials that count: complete, pruned, or failed by what was tried rather than by an interruption."""
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.state.name in ("COMPLETE", "PRUNED") or _ERROR in trial.user_attrs]


def _requeue_interrupted(study: "Study") -> None:
    """Trials that ran when the process was killed are tried again with the same values, from their checkpoints."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        if trial.params:
            study.enqueue_trial(trial.params)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                f"Another process is tuning in {folder}.", remedy="Wait for it, or stop it, and run again."
            ) from None
        yield
