"""A resumable hyperparameter search: Optuna's TPE, parallel trials, and pruning of trials worse than the median.

The study is a journal file in the search's folder, which outlives its machine. Each trial is a training run without
export, and a child run in MLflow. The first trial uses the declared values, so that the best is never worse than they
are. A search does not change the declaration: it reports which values to write there.
"""

import hashlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from forecache.base.errors import InputError, SettingsError
from forecache.base.plugins import load_hook
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.base.steps import tune_step
from forecache.declare import TorchModel, Trainable, Training
from forecache.kit.lease import Lease
from forecache.lake.ledger import all_records
from forecache.lake.stage_runner import Stage, StageOutcome
from forecache.models.tracking.client import connect_mlflow
from forecache.models.tracking.runs import experiment_of
from forecache.models.training.launch import learn_vocabularies, pinned_version, plan_training, training_inputs
from forecache.models.training.process import lock_run
from forecache.models.training.spec import SPEC_FILE, TrainingSpec, checkpoints_of, open_run_files
from forecache.plugins.tune.journal import JOURNAL_FILE, SearchJournal

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
        storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL_FILE))),
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


STAGE = "tune"


def tune(
    settings: Settings,
    pipeline: Trainable,
    night: date,
    *,
    trials: int = 20,
    run_id: str = "",
    progress: Progress = no_progress,
) -> StageResult:
    """Search learning rate, weight decay and batch size for the least validation loss on the pinned training set.

    An interrupted search resumes, also on another machine: its finished trials count, and unfinished ones continue from
    their checkpoints. If another process searches on the same inputs, its result is waited for and taken. As many
    trials run at once as the machine has GPUs, or cores without them, each with one worker. The search is recorded
    under the as-of date `night`, and `trials` includes those of earlier calls on the same inputs.

    SettingsError for an estimator, NotFoundError without a training set, LeaseLostError if this process stood still and
    another machine has taken the search over, InputError if no trial completed with a validation loss.

    Returns:
        `rows`: finished trials. `details`: best (values of `Training`), best_loss, declared_loss, trials, pruned,
        failed, parallel, mlflow_run_id, inputs.
    """
    stage = Stage(settings, STAGE, pipeline.name, run_id)
    if not isinstance(pipeline.model, TorchModel):
        raise SettingsError(
            f"{pipeline.display_name} has an estimator, but the search tunes networks only.",
            remedy="Search its parameters with scikit-learn or Optuna, and write the best into `build`.",
        )
    version = pinned_version(settings, pipeline)
    training = plan_training(settings, pipeline).training
    inputs = training_inputs(pipeline, version, precision=training.precision)
    pipeline = pipeline.replace_training(training)
    folder = settings.training_path / pipeline.name / f"tune-{hashlib.sha256(inputs.encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    spec = TrainingSpec(
        run_dir=str(folder),
        pipeline=pipeline.name,
        table_uri=settings.table_uri(pipeline.training_table),
        table_version=version,
        inputs=inputs,
        training=training,
        device=settings.device,
        keep_checkpoints=1,
        checkpoints=checkpoints_of(settings, folder),
        export=False,
    )

    def report(message: str) -> None:
        progress(f"tuning {pipeline.name}: {message}", None)

    with lock_run(settings, spec, action="tuning", run_id=run_id, report=report) as held:
        # The study names its MLflow run, which no other machine finds in the database of a home.
        is_shared = bool(spec.checkpoints and settings.mlflow_uri)
        shared = open_run_files(settings, spec.checkpoints) if is_shared else None
        journal = SearchJournal(folder, shared, held.lease)
        journal.fetch()
        study = open_study(folder, pipeline)
        search = _Search(settings, pipeline, night, study, journal, spec, held.lease, trials, progress)
        if shared is not None and search.remaining > 0:
            shared.write(SPEC_FILE, spec.to_json().encode())  # for maintenance, which keeps what this trains from
        ran, finished = search.run(), len(finished_trials(study))
        # A machine may be lost after the last trial, before it has recorded the search.
        known = () if ran else all_records(settings, STAGE, pipeline.name)
        is_known = any((row.inputs, row.rows) == (inputs, finished) for row in known)
        if not is_known:
            search.client.set_terminated(search.parent)
        details = {**search.summary(), "inputs": inputs, "training_version": version}
        seconds = time.perf_counter() - stage.started
        if not is_known:
            held.lease.confirm()
            stage.record({None: StageOutcome(finished, details)}, {None: inputs}, seconds)
        # A machine may be lost before it has deleted the checkpoints of a trial that has ended.
        if shared is not None and all(trial.state.is_finished() for trial in study.get_trials(deepcopy=False)):
            held.lease.ensure()
            shared.delete([name for name in shared.names() if "/" in name and not name.startswith(".leases/")])
    return StageResult(STAGE, pipeline.name, finished, seconds, nights=(night,), skipped=is_known, details=details)


def trial_slots(settings: Settings, *, gpus: Callable[[], int] | None = None) -> list[int | None]:
    """One slot per parallel trial: the index of its GPU, or None if each trial has a core."""
    found = (gpus or load_hook("torch", "num_gpus"))() if settings.device != "cpu" else 0
    return list(range(found)) if found else [None] * (os.cpu_count() or 1)


class _Search:
    """One call of `tune`: hands out trials to threads until enough are finished."""

    def __init__(
        self,
        settings: Settings,
        pipeline: Trainable,
        night: date,
        study: "Study",
        journal: SearchJournal,
        spec: TrainingSpec,
        lease: Lease,
        trials: int,
        progress: Progress,
    ) -> None:
        self.settings = settings.model_copy(update={"training_workers": 1, "training_nodes": "1"})
        self.pipeline, self.night, self.study, self.journal = pipeline, night, study, journal
        self.lease, self.trials, self.progress = lease, trials, progress
        self.spec = replace(spec, vocabularies=learn_vocabularies(settings, pipeline, version=spec.table_version))
        self.client = connect_mlflow(settings)
        self.experiment = experiment_of(settings, self.client, pipeline)
        self.parent = self._parent_run()
        self.remaining = trials - len(finished_trials(study))
        self.slots = trial_slots(settings)
        self.parallel = max(1, min(len(self.slots), self.remaining))
        self._free = SimpleQueue[int | None]()
        for slot in self.slots[: self.parallel]:
            self._free.put(slot)
        self._lock, self._stop = threading.Lock(), threading.Event()

    def run(self) -> int:
        missing = max(0, self.remaining)
        if missing:
            requeue_interrupted(self.study)
            with ThreadPoolExecutor(self.parallel, thread_name_prefix="trial") as pool:
                futures = [pool.submit(self._run_trial) for _ in range(missing)]
                try:
                    for future in futures:
                        future.result()
                except BaseException:
                    self._stop.set()
                    for future in futures:
                        future.cancel()
                    raise
        return missing

    def summary(self) -> dict[str, Any]:
        complete = [trial for trial in finished_trials(self.study) if trial.state.name == "COMPLETE"]
        if not complete:
            errors = [trial.user_attrs[ERROR] for trial in finished_trials(self.study) if ERROR in trial.user_attrs]
            raise InputError(
                f"None of {len(errors)} trials of {self.pipeline.name!r} completed: {errors[0] if errors else ''}",
                remedy="Check the label and the features for extreme values.",
            )
        best = min(complete, key=lambda trial: float(trial.value or 0.0))
        states = [trial.state.name for trial in finished_trials(self.study)]
        declared = [trial.value for trial in complete if trial.params == declared_values(self.pipeline.training)]
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

    def _run_trial(self) -> None:
        from optuna.trial import TrialState

        with self._lock:
            trial = self.study.ask()
            training = suggest(trial, self.pipeline.training)
            tune_step("trial begun")
            self.journal.share()
        child = self._child_run(trial.number, training)
        gpu, spec = self._free.get(), self._spec(training)
        try:
            watch = self._trial_observer(trial, child)
            run_torchrun = load_hook("torch", "run_torchrun")
            result = run_torchrun(self.settings, spec, on_event=watch, threads=1, gpu=gpu, lease=self.lease)
        except PruneTrial:
            self._record_trial(trial, child, TrialState.PRUNED, "KILLED")
        except InputError as error:
            trial.set_user_attr(ERROR, error.message)
            self._record_trial(trial, child, TrialState.FAIL, "FAILED")
        except BaseException:
            self.client.set_terminated(child, status="KILLED")
            raise
        else:
            self._record_trial(trial, child, TrialState.COMPLETE, "FINISHED", result["validation_loss"])
        finally:
            self._free.put(gpu)
        if spec.checkpoints:  # of a trial that has ended nothing is needed any more
            files = open_run_files(self.settings, spec.checkpoints)
            files.delete(files.names())

    def _record_trial(self, trial: "Trial", child: str, state: Any, status: str, value: float | None = None) -> None:
        with self._lock:
            self.study.tell(trial, value, state=state)
            tune_step("trial ended")
            self.journal.share()
            done = len(finished_trials(self.study))
        self.client.set_tag(child, "forecache.trial_state", state.name.lower())
        self.client.set_terminated(child, status=status)
        what = f"validation loss {value:.4f}" if value is not None else state.name.lower()
        self.progress(f"tuning {self.pipeline.name}: trial {trial.number} {what}", min(1.0, done / self.trials))

    def _trial_observer(self, trial: "Trial", child: str) -> Any:
        def on_event(event: dict[str, Any]) -> None:
            if self._stop.is_set():
                raise StopSearch
            if self.lease.is_taken_over:
                self.lease.check()
            if event["event"] == "epoch":
                self.client.log_metric(child, "validation_loss", event["validation_loss"], step=event["epoch"])
                trial.report(event["validation_loss"], event["epoch"])
                if trial.should_prune():
                    raise PruneTrial

        return on_event

    def _spec(self, training: Training) -> TrainingSpec:
        inputs = f"{self.spec.inputs} trial={sorted(asdict(training).items())}"
        folder = self.spec.folder / hashlib.sha256(inputs.encode()).hexdigest()[:16]
        checkpoints = checkpoints_of(self.settings, folder)
        return replace(self.spec, run_dir=str(folder), inputs=inputs, training=training, checkpoints=checkpoints)

    def _parent_run(self) -> str:
        known = self.study.user_attrs.get("mlflow_run_id")
        if known:
            return str(known)
        tags = {"mlflow.runName": f"tune {self.pipeline.name} {self.night}", "forecache.pipeline": self.pipeline.name}
        run: str = self.client.create_run(self.experiment, tags=tags).info.run_id
        self.study.set_user_attr("mlflow_run_id", run)
        self.journal.share()  # else a machine that goes on would make another one
        return run

    def _child_run(self, number: int, training: Training) -> str:
        tags = {"mlflow.runName": f"trial {number}", "mlflow.parentRunId": self.parent}
        run: str = self.client.create_run(self.experiment, tags=tags).info.run_id
        for name, value in asdict(training).items():
            self.client.log_param(run, name, value)
        return run
