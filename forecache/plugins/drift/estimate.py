"""Estimates a classifier's metrics before labels are known: confidence-based performance estimation (CBPE).

Each row counts as positive with a weight equal to its calibrated probability, and as negative with the rest; the metric
of the weighted rows is the expected one. NannyML, "Confidence-based Performance Estimation",
https://nannyml.readthedocs.io/en/stable/how_it_works/performance_estimation.html

It holds as long as the calibration does: inputs may move (covariate shift) as far as the test split has similar rows.
It does not detect that the label depends on the inputs in another way (concept drift): only the realised performance
shows that, a label horizon later.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from forecache.models.registry.gate.class_metrics import MULTICLASS
from forecache.models.registry.gate.score_metrics import BINARY, Array
from forecache.models.registry.report.calibration import Calibration

MOST_ROWS = 50_000
"""Of more rows, so many are used, evenly spread."""
_DRAWS = 100
_TAIL = (1 - 0.95) / 2
MetricFunction = Callable[..., float]


@dataclass(frozen=True)
class MetricEstimate:
    """The expected value of a metric.

    Attributes:
        low, high: Interval of 95 percent of the realised values if the calibration holds: labels are drawn, and so are
            the test rows that the calibration comes from.
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
    """Return the metrics that are estimated, by name.

    Args:
        classes: Number of classes; 1: the label is binary.
    """
    return _BINARY if classes == 1 else _CLASSES


def estimate_metrics(score: Array, calibrations: Sequence[Calibration], *, seed: int = 0) -> dict[str, MetricEstimate]:
    """Estimate each metric; a metric without a value on these rows is left out.

    Args:
        score: [n] for a binary label, else [n, classes], without NaN.
        calibrations: One for a binary label, else one for each class.
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


def expected_confusion(score: Array, calibration: Calibration) -> dict[str, float]:
    """Compute the expected confusion matrix of binary scores [n] at 0.5, in rows."""
    likely, chosen = calibration.probabilities(score.astype(np.float64)), score >= 0.5
    return {
        "true_positive": float(likely[chosen].sum()),
        "false_positive": float((1 - likely[chosen]).sum()),
        "false_negative": float(likely[~chosen].sum()),
        "true_negative": float((1 - likely[~chosen]).sum()),
    }


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
