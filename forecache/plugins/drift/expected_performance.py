"""Expected performance of the predictions of an as-of date, before their labels are known, as rows of `monitoring`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa

from forecache.base.settings import Settings
from forecache.declare import AS_OF, Pipeline, Trainable
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_table
from forecache.models.registry.gate.metric_judge import judge_of
from forecache.models.registry.gate.score_metrics import BINARY, MULTICLASS, Array
from forecache.models.registry.model_versions import ModelVersion
from forecache.models.registry.register import load_evaluation
from forecache.plugins.drift.calibration import Calibration
from forecache.plugins.drift.measurements import Measurement
from forecache.plugins.drift.prediction_drift import TEST_SPLIT

MOST_ROWS = 50_000
"""Of more rows, so many are used, evenly spread."""
_DRAWS = 100
_TAIL = (1 - 0.95) / 2
MetricFunction = Callable[..., float]


@dataclass(frozen=True)
class MetricEstimate:
    """The expected value of a metric, and the interval of 95 percent of the realised values if the calibration holds:
    labels are drawn, and so are the test rows that the calibration comes from.
    """

    value: float
    low: float
    high: float
    rows: int


def accuracy(label: Array, score: Array, weight: Array | None = None) -> float:
    """Compute the share of rows whose score is on the label's side of 0.5."""
    return float(np.average((score >= 0.5) == (label > 0.5), weights=weight))


def f1(label: Array, score: Array, weight: Array | None = None) -> float:
    """Compute the F1 score at a threshold of 0.5; NaN if no label and no score is positive."""
    weights = np.ones(len(label)) if weight is None else weight
    positive, chosen = label > 0.5, score >= 0.5
    both = weights[positive].sum() + weights[chosen].sum()
    return float(2 * weights[positive & chosen].sum() / both) if both else float("nan")


_BINARY: Mapping[str, MetricFunction] = {
    **{name: BINARY[name] for name in ("roc_auc", "average_precision", "log_loss", "brier")},
    "accuracy": accuracy,
    "f1": f1,
}
_CLASSES: Mapping[str, MetricFunction] = {
    name: MULTICLASS[name] for name in ("roc_auc", "log_loss", "accuracy", "macro_f1")
}


def estimated_metrics(classes: int) -> Mapping[str, MetricFunction]:
    """Return the metrics that are estimated, by name; for 1 class those of a binary label."""
    return _BINARY if classes == 1 else _CLASSES


def estimate_metrics(score: Array, calibrations: Sequence[Calibration], *, seed: int = 0) -> dict[str, MetricEstimate]:
    """Estimate each metric that has a value on scores, [n] for a binary label, else [n, classes], without NaN; with one
    calibration for a binary label, else one for each class.
    """
    step = -(-len(score) // MOST_ROWS) or 1
    score = score[::step].astype(np.float64)
    metrics, rng = estimated_metrics(len(calibrations)), np.random.default_rng(seed)
    values = _weighted_metrics(metrics, score, _class_probabilities(score, calibrations))
    draws: dict[str, list[float]] = {name: [] for name in metrics}
    for _ in range(_DRAWS):
        label = _draw_labels(_class_probabilities(score, [each.resample(rng) for each in calibrations]), rng)
        for name, metric in metrics.items():
            draws[name].append(metric(label, score))
    found = {}
    for name, value in values.items():
        known = [each for each in draws[name] if not np.isnan(each)]
        if known and not np.isnan(value):
            # Calibrating on the test rows overfits their noise, which makes a model look better; calibrating on drawn
            # rows adds the same bias once more, so it can be measured and subtracted.
            bias = float(np.mean(known)) - value
            low, high = np.quantile(known, [_TAIL, 1 - _TAIL]) - 2 * bias
            found[name] = MetricEstimate(value - bias, float(low), float(high), len(score))
    return found


def _class_probabilities(score: Array, calibrations: Sequence[Calibration]) -> Array:
    """The probability of each class, float64 [n, classes]; for a binary label, of 0 and of 1."""
    if len(calibrations) == 1:
        likely = calibrations[0].probabilities(score)
        return np.column_stack([1 - likely, likely])
    found = np.column_stack([each.probabilities(score[:, place]) for place, each in enumerate(calibrations)])
    total = found.sum(axis=1, keepdims=True)
    return np.where(total > 0, found / np.where(total > 0, total, 1), 1 / found.shape[1])


def _weighted_metrics(metrics: Mapping[str, MetricFunction], score: Array, shares: Array) -> dict[str, float]:
    """Compute each metric on all pairs of row and possible label, weighted by the probability of the label."""
    rows, classes = shares.shape
    label = np.repeat(np.arange(classes, dtype=np.float64), rows)
    repeated = np.concatenate([score] * classes)
    weight = shares.T.reshape(-1)
    return {name: metric(label, repeated, weight) for name, metric in metrics.items()}


def _draw_labels(shares: Array, rng: np.random.Generator) -> Array:
    """Draw a label for each row by its probabilities, float64 [n]."""
    below = np.cumsum(shares, axis=1)[:, :-1]
    found: Array = (rng.random((len(shares), 1)) >= below).sum(axis=1).astype(np.float64)
    return found


CALIBRATIONS = "calibrations"
"""Key of the score calibrations in an evaluation; model versions from before they were recorded have none."""
NO_CALIBRATION = "no estimate: version {} was registered without a calibration of its scores; train it again"


def expected_performance(
    settings: Settings, pipeline: Pipeline, model: ModelVersion, night: date, *, run_id: str = ""
) -> tuple[list[Measurement], str]:
    """Estimate each metric on the predictions of a date by a version; returns the figures, or why there are none."""
    spec = pipeline.output_specs[0]
    if pipeline.task not in ("binary", "multiclass"):
        return [], ""
    if spec.top is not None:
        return [], "no estimate: the probabilities of some classes are not kept (Classes(probabilities=...))"
    evaluation = evaluation_of(settings, model)
    if not evaluation.get(CALIBRATIONS):
        return [], NO_CALIBRATION.format(model.version)
    score = night_scores(settings, pipeline, night, evaluation["classes"])
    if not len(score):
        return [], f"no estimate: {night} has no predictions"
    return estimate_measurements(pipeline, model, evaluation, night, score, run_id), ""


def evaluation_of(settings: Settings, model: ModelVersion) -> Mapping[str, Any]:
    """Load the evaluation of a version; empty if it was not evaluated here."""
    return load_evaluation(settings, model) if "test_metrics" in model.tags else {}


def estimate_measurements(
    pipeline: Trainable, model: ModelVersion, evaluation: Mapping[str, Any], night: date, score: Array, run_id: str
) -> list[Measurement]:
    """Estimate each metric on scores of a date (n > 0, see `estimate_metrics`) and compare with the test split."""
    calibrations = [Calibration.from_json(each) for each in evaluation[CALIBRATIONS]]
    references = {**_expected_on_test(calibrations), **model.metrics}
    less = judge_of(pipeline).less_is_better
    rows = []
    for name, found in estimate_metrics(score, calibrations, seed=pipeline.training.seed).items():
        if name not in references:
            continue
        reference, sign = references[name], 1 if name in less else -1
        low, high = sorted(sign * (end - reference) for end in (found.low, found.high))
        rows.append(
            Measurement(
                pipeline=pipeline.name,
                run_date=night,
                as_of=night,
                kind="estimate",
                name=name,
                reference=TEST_SPLIT,
                model_version=model.version,
                effect=sign * (found.value - reference),
                effect_low=low,
                effect_high=high,
                value=found.value,
                reference_value=reference,
                rows=found.rows,
                run_id=run_id,
            )
        )
    return rows


def _expected_on_test(calibrations: Sequence[Calibration]) -> dict[str, float]:
    """Estimate from the calibration the test split's metrics of a binary label that the registry does not have."""
    if len(calibrations) != 1:
        return {}
    [own] = calibrations
    scores, rows = np.asarray(own.scores), np.asarray(own.rows, np.float64)
    shares, metrics = np.asarray(own.shares), estimated_metrics(1)
    label = np.repeat([1.0, 0.0], len(scores))
    weight = np.concatenate([rows * shares, rows * (1 - shares)])
    return {name: metrics[name](label, np.tile(scores, 2), weight) for name in ("accuracy", "f1")}


def night_scores(settings: Settings, pipeline: Pipeline, night: date, classes: Sequence[str]) -> Array:
    """Read the scores of a date, float64 [n], or [n, classes] for the given ones; rows without a score are left out."""
    spec = pipeline.output_specs[0]
    column = spec.columns[1] if spec.kind == "classes" else spec.judged_column
    dataset = open_dataset(
        open_table(settings, pipeline.prediction_table), partitions=[(AS_OF, "=", night.isoformat())]
    )
    values = dataset.to_table(columns=[column]).column(0).combine_chunks().drop_null()
    if spec.kind != "classes":
        score = values.to_numpy(zero_copy_only=False).astype(np.float64)
        return score[~np.isnan(score)]
    return class_scores(values, classes)


def class_scores(values: "pa.ListArray", classes: Sequence[str]) -> Array:
    """Convert lists of structs with `class` and `probability` to probabilities, float64 [n, classes]."""
    import pyarrow.compute as pc

    items = values.flatten()
    place = pc.index_in(items.field("class"), value_set=pa.array(classes, pa.string()))
    known = place.is_valid().to_numpy(zero_copy_only=False)
    row = np.repeat(np.arange(len(values)), pc.list_value_length(values).to_numpy())
    found = np.zeros((len(values), len(classes)))
    places = place.fill_null(0).to_numpy(zero_copy_only=False)
    found[row[known], places[known]] = items.field("probability").to_numpy()[known]
    return found
