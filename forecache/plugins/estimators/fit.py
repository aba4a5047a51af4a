"""Fit a pipeline's estimator in this process: read, fit, save, check, and write the same records as torchrun's workers.

A killed run leaves no model and starts again from the beginning: an estimator cannot resume a fit.
"""

import hashlib
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forecache.base.errors import CheckError, InputError, SettingsError
from forecache.base.files import write_durably
from forecache.base.ranking import DEFAULT_PLACES, mean_of_requests, ndcg
from forecache.base.settings import Settings, load_settings
from forecache.base.statistics import class_losses, cross_entropy, pinball_losses
from forecache.declare import EstimatorModel, Trainable
from forecache.declare.loading import load_trainable
from forecache.declare.models.gate import rank_cutoff
from forecache.lake.split_rows import training_classes
from forecache.models.inference.encoding import MatrixEncoding, encoding_of
from forecache.models.inference.runtimes.runtime import Predict
from forecache.models.training.process import TrainingPlan, process_environment
from forecache.models.training.spec import (
    HEARTBEAT_FILE,
    LANES,
    REFIT,
    RESULT_FILE,
    SPEC_FILE,
    Events,
    Heartbeat,
    TrainingSpec,
)
from forecache.plugins.estimators.libraries import (
    FittedEstimator,
    Matrix,
    fit,
    is_ranker,
    machine_memory_bytes,
    num_rounds,
    read_matrix,
    refit,
    set_seed,
)
from forecache.plugins.estimators.runtimes import load_lightgbm, load_xgboost
from forecache.plugins.estimators.saving import combine_estimators, predict_all, refuse_unsaveable, save
from forecache.plugins.estimators.skops_files import load_predict


def describe_estimator(estimator: Any, fitted: FittedEstimator) -> dict[str, Any]:
    plain = {name: value for name, value in estimator.get_params().items() if isinstance(value, (int, float, str))}
    kind = type(estimator)
    return {"library": fitted.library, "class": f"{kind.__module__}.{kind.__qualname__}", "parameters": plain}


def describe_process() -> dict[str, Any]:
    return {
        "workers": 1,
        "device": "cpu",
        "device_name": "cpu",
        "python": platform.python_version(),
        "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
    }


def measure_usage(started: float) -> dict[str, Any]:
    """Figures as of the torch workers; an estimator reads all data first and never waits for it."""
    wall, threads = time.perf_counter() - started, describe_process()["threads"]
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "attempt_s": wall,
        "cpu_share": time.process_time() / (wall * threads),
        "stall_share": 0.0,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "peak_device_memory_bytes": 0,
        "device_memory_bytes": 0,
        "machine_memory_bytes": machine_memory_bytes(),
    }


_REPORT_EVERY_S = 1.0
_PARITY_ROWS = 4096
_SPLITS = ("train", "validation", "test")
_TOLERANCE = 1e-5
_LOSSES = {
    "binary": "log_loss",
    "regression": "mean_squared_error",
    "multiclass": "log_loss",
    "quantiles": "pinball_loss",
    "ranking": "1 - ndcg",
}


def fit_estimator(spec: TrainingSpec, *, launched_at: float) -> None:
    """Fit the estimator, save it, and write `result.json`; this process started at `launched_at`, in seconds since
    1970.

    InputError if a split cannot be used, or a binary label's training split has one class only; SettingsError if the
    declared estimator cannot predict this kind of label; CheckError if it cannot be saved without code in its file
    (checked before it is fitted), or the saved model's predictions differ from the fitted one's or are no
    probabilities. With `Training.refit` also the model that was fitted again, in the folder `refit`; the file that is
    written last says that all is there.
    """
    started, settings = time.perf_counter(), load_settings()
    pipeline = spec.applied_to(load_trainable(settings, spec.pipeline))
    assert isinstance(pipeline.model, EstimatorModel)
    estimators = [set_seed(each, pipeline.training.seed) for each in _build_estimators(pipeline, pipeline.model)]
    classes, version = training_classes(settings, pipeline, version=spec.table_version), spec.table_version
    encoding = encoding_of(pipeline.feature_columns, spec.vocabularies)
    train, validation = (
        read_matrix(settings, pipeline, encoding, version=version, split=split, classes=classes)
        for split in ("train", "validation")
    )
    if pipeline.trained_label.kind == "binary" and len(np.unique(train.label)) < 2:
        raise InputError(
            f"Every label of the training split of {pipeline.name!r} is {train.label[0]:g}.",
            remedy="Use more training dates, so that both outcomes occur.",
        )
    for estimator in estimators:
        refuse_unsaveable(estimator, train)
    steps = sum(map(num_rounds, estimators))
    heartbeat, events = Heartbeat(spec.folder / HEARTBEAT_FILE), Events(spec)
    reached_step, alive_at = heartbeat.before
    events(
        "start",
        step=0,
        steps=steps,
        rows=len(train.label),
        launched_at=launched_at,
        reached_step=reached_step,
        alive_at=alive_at,
        **describe_process(),
    )
    rounds = RoundRecorder(events, heartbeat, rows=len(train.label), total=steps)
    ended = rounds.end_round if len(estimators) == 1 else rounds.count_round
    told: dict[str, Any] = {
        "patience": pipeline.model.patience,
        "ended": ended,
        "categories": [column for column, _ in encoding.categories.values()],
        "places": _places(pipeline),
    }
    found = [fit(each, encoding.columns, train, validation, **told) for each in estimators]
    fitted = combine_estimators(found)
    events("export")
    path = save(fitted, spec.folder)
    predict, checked = _check_saved_model(pipeline, fitted, estimators, path, validation.features[:_PARITY_ROWS])
    checked["validation_loss"] = _loss(pipeline, validation, predict(validation.features))
    counts = {"train": len(train.label), "validation": len(validation.label)}
    served: dict[str, Any] = {}
    if pipeline.training.refit:
        del train, validation, predict  # one copy of the rows is in memory at a time
        events("refit")
        path, served = _refit(spec, pipeline, settings, encoding, classes, [each.best_round + 1 for each in found])
    result = {
        "unit": "round",
        "epochs": fitted.rounds,
        "best_epoch": fitted.best_round,
        "loss": fitted.loss or _LOSSES[pipeline.task],
        "history": rounds.history,
        "rows": counts,
        "weights_digest": hashlib.sha256(path.read_bytes()).hexdigest(),
        "estimator": describe_estimator(estimators[0], fitted),
        "usage": measure_usage(started),
        **describe_process(),
        **checked,
        **served,
    }
    if rounds.history:
        result["validation_loss"] = rounds.history[fitted.best_round]["validation_loss"]
    write_durably(spec.folder / RESULT_FILE, json.dumps(result, indent=2))
    events("done")


def _refit(
    spec: TrainingSpec,
    pipeline: Trainable,
    settings: Settings,
    encoding: MatrixEncoding,
    classes: Sequence[str],
    rounds: Sequence[int],
) -> tuple[Path, dict[str, Any]]:
    """Fit new estimators on the rows of all splits, each with its number of rounds, and save and check the model.

    Returns:
        The model's file, and `refit` for the result: `rows` by split together, and `rounds`.
    """
    assert isinstance(pipeline.model, EstimatorModel)
    rows = read_matrix(settings, pipeline, encoding, version=spec.table_version, split=_SPLITS, classes=classes)
    estimators = [set_seed(each, pipeline.training.seed) for each in _build_estimators(pipeline, pipeline.model)]
    categories = [column for column, _ in encoding.categories.values()]
    fitted = combine_estimators(
        [
            refit(each, encoding.columns, rows, rounds=number, categories=categories)
            for each, number in zip(estimators, rounds, strict=True)
        ]
    )
    folder = spec.folder / REFIT
    folder.mkdir(exist_ok=True)
    path = save(fitted, folder)
    _check_saved_model(pipeline, fitted, estimators, path, rows.features[:_PARITY_ROWS])
    return path, {"refit": {"rows": len(rows.label), "rounds": fitted.rounds}}


class RoundRecorder:
    """Records the losses of each boosting round and reports progress to the parent at most once a second."""

    def __init__(self, events: Events, heartbeat: Heartbeat, *, rows: int, total: int) -> None:
        self.events, self.heartbeat, self.rows, self.total = events, heartbeat, rows, total
        self.history: list[dict[str, float]] = []
        self._counted = 0
        self._round_started = self._reported_at = time.perf_counter()

    def count_round(self, number: int, train_loss: float | None, validation_loss: float | None) -> None:
        """Count a round of one of several estimators; their losses do not compare and are not recorded."""
        self._counted += 1
        self.heartbeat.beat(self._counted)

    def end_round(self, number: int, train_loss: float | None, validation_loss: float | None) -> None:
        now = time.perf_counter()
        seconds, self._round_started = now - self._round_started, now
        self.heartbeat.beat(number + 1)
        if train_loss is not None and validation_loss is not None:
            losses = {"train_loss": float(train_loss), "validation_loss": float(validation_loss)}
            speed = {"rows_per_s": self.rows / max(seconds, 1e-9), "seconds": seconds}
            self.history.append({"epoch": number, "step": number + 1, **losses, **speed})
        if now - self._reported_at >= _REPORT_EVERY_S:
            self._reported_at = now
            share = (number + 1) / max(number + 1, self.total)
            latest = {"round": self.history[-1]} if self.history else {}
            self.events("progress", step=number + 1, epoch=number, share=share, unit="round", **latest)


def _build_estimators(pipeline: Trainable, model: EstimatorModel) -> list[Any]:
    """The declared estimators: one, or for quantiles one for each level or one for all."""
    levels = pipeline.output_specs[0].levels
    built = model.build(levels) if levels else model.build()
    estimators = list(built) if isinstance(built, (list, tuple)) else [built]
    if len(estimators) not in (1, len(levels) or 1):
        raise SettingsError(
            f"{pipeline.display_name} builds {len(estimators)} estimators for {len(levels) or 1} values a row.",
            remedy="Return one estimator, or for quantiles one for each level.",
        )
    if pipeline.task != "ranking" and any(map(is_ranker, estimators)):
        raise SettingsError(
            f"{pipeline.display_name} has a {pipeline.trained_label.kind} label and builds a "
            f"{type(estimators[0]).__name__}, which ranks.",
            remedy="Return a classifier or a regressor, or declare a real-time model with a ranking as its label.",
        )
    classifies = pipeline.task in ("binary", "multiclass")
    wanted = ["fit", "get_params", "predict_proba" if classifies else "predict"]
    for estimator in estimators:
        missing = [name for name in wanted if not hasattr(estimator, name)]
        if missing:
            raise SettingsError(
                f"{pipeline.display_name} has a {pipeline.trained_label.kind} label and builds a "
                f"{type(estimator).__name__}, which has no {missing[0]!r}.",
                remedy="Return a classifier for a binary or multiclass label, a ranker or regressor for a ranking, "
                "otherwise a regressor, with scikit-learn's interface.",
            )
    return estimators


def _check_saved_model(
    pipeline: Trainable, fitted: FittedEstimator, estimators: Sequence[Any], path: Path, sample: np.ndarray
) -> tuple[Predict, dict[str, float]]:
    """Load the file as scoring does and compare it with the estimator on some rows; returns its function, and the
    differences."""
    task, several = pipeline.task, pipeline.output_specs[0].is_array
    payload = path.read_bytes()
    if fitted.library == "sklearn":
        predict = load_predict(payload, several=several)
    else:
        predict = {"lightgbm": load_lightgbm, "xgboost": load_xgboost}[fitted.library](payload)
    if task in ("binary", "multiclass"):
        expected = np.asarray(estimators[0].predict_proba(sample), np.float64)
        expected = expected[:, 1] if predict(sample[:1]).ndim == 1 else expected
        if not (np.all(expected >= 0) and np.all(expected <= 1)):
            raise CheckError(
                f"The estimator of {pipeline.name!r} predicts {float(expected.min()):g} to {float(expected.max()):g}.",
                remedy=f"For a {task} label, choose an objective whose output is a probability.",
            )
    else:
        expected = predict_all(estimators, sample)
        expected = expected if several else expected.reshape(len(sample))
    levels = pipeline.output_specs[0].levels
    if levels and expected.shape[1] != len(levels):
        raise SettingsError(
            f"The estimator of {pipeline.name!r} predicts {expected.shape[1]} values a row, and its quantiles are "
            f"{len(levels)}.",
            remedy="Return an estimator for each level, or one that predicts all of them.",
        )
    difference = np.abs(predict(sample).reshape(expected.shape) - expected)
    relative = float((difference / np.maximum(1.0, np.abs(expected))).max())
    if not relative <= _TOLERANCE:
        raise CheckError(
            f"The saved model of {pipeline.name!r} differs from the fitted one by {relative:.2e} relative on "
            f"{len(sample)} rows.",
            remedy="Use one of the library's own objectives, which its file format can store.",
        )
    return predict, {"parity_max_abs": float(difference.max()), "parity_max_relative": relative}


def _places(pipeline: Trainable) -> int:
    return rank_cutoff(pipeline.trained_gate.metric) or DEFAULT_PLACES


def _loss(pipeline: Trainable, validation: Matrix, predicted: np.ndarray) -> float:
    label, task, levels = validation.label, pipeline.task, pipeline.output_specs[0].levels
    losses: np.ndarray
    if task == "ranking":
        assert validation.sizes is not None
        own = (label.astype(np.float64), predicted.reshape(len(label)).astype(np.float64))
        values = ndcg(*own, validation.sizes, places=_places(pipeline))
        weight = validation.weight_of_requests
        return 1 - mean_of_requests(values, np.ones(len(values)) if weight is None else weight.astype(np.float64))
    if task == "regression":
        losses = (predicted.reshape(len(label)) - label) ** 2
    elif task == "quantiles":
        losses = pinball_losses(label, predicted, levels)
    elif predicted.ndim == 1:
        losses = cross_entropy(label, predicted)
    else:
        losses = class_losses(label, predicted)
    return float(np.average(losses, weights=validation.weight))


def plan_training(settings: Settings, pipeline: Trainable) -> TrainingPlan:
    return TrainingPlan(
        training=pipeline.training,
        lanes=LANES,
        workers=lambda: "in one process",
        command=lambda spec: [
            *(sys.executable, "-m", "forecache.plugins.estimators", "--spec"),
            str(spec.folder / SPEC_FILE),
        ],
        environment=lambda: process_environment(settings, threads=os.cpu_count() or 1),
    )
