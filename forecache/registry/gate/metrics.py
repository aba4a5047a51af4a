"""Metrics of scores against labels, in plain numpy. Every function takes float64 [n] arrays without nulls."""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from forecache.statistics import cross_entropy

Array = NDArray[np.float64]

LESS_IS_BETTER = frozenset({"log_loss", "brier", "ece", "mae", "rmse"})


def roc_auc(label: Array, score: Array) -> float:
    """Probability that a positive scores above a negative, ties counting half; NaN if one class is missing."""
    positives = label > 0.5
    n_positive, n_negative = int(positives.sum()), int((~positives).sum())
    if not n_positive or not n_negative:
        return float("nan")
    ranks = average_ranks(score)
    return float((ranks[positives].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def average_precision(label: Array, score: Array) -> float:
    """Mean precision over recall, as the step-wise sum over distinct scores; NaN without positives."""
    positives = label > 0.5
    if not positives.any():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    last_of_score = np.append(np.diff(score[order]) != 0, True)
    true = np.cumsum(positives[order])[last_of_score]
    precision = true / (np.flatnonzero(last_of_score) + 1)
    return float(np.sum(np.diff(true, prepend=0) * precision) / positives.sum())


def log_loss(label: Array, score: Array) -> float:
    """Mean cross-entropy in nats, scores clipped to [1e-7, 1 - 1e-7]."""
    return float(np.mean(cross_entropy(label, score)))


def brier(label: Array, score: Array) -> float:
    """Mean squared difference between probability and label."""
    return float(np.mean((score - label) ** 2))


def ece(label: Array, score: Array, *, bins: int = 15) -> float:
    """Expected calibration error over equal-mass bins (Naeini, Cooper, Hauskrecht 2015, with equal-mass bins)."""
    groups = np.array_split(np.argsort(score, kind="stable"), min(bins, len(score)))
    gaps = [abs(score[group].mean() - label[group].mean()) * len(group) for group in groups]
    return float(sum(gaps) / len(score))


def mae(label: Array, score: Array) -> float:
    """Mean absolute error."""
    return float(np.mean(np.abs(score - label)))


def rmse(label: Array, score: Array) -> float:
    """Root mean squared error."""
    return float(np.sqrt(np.mean((score - label) ** 2)))


def r2(label: Array, score: Array) -> float:
    """Share of the label's variance that is explained; NaN if the label does not vary."""
    variance = np.mean((label - label.mean()) ** 2)
    return float(1 - np.mean((score - label) ** 2) / variance) if variance else float("nan")


def spearman(label: Array, score: Array) -> float:
    """Rank correlation; NaN if the labels or the scores do not vary."""
    a, b = average_ranks(label), average_ranks(score)
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else float("nan")


def average_ranks(values: Array) -> Array:
    """Ranks from 1, ties sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Array = (last - (counts - 1) / 2)[inverse]
    return ranks


Metric = Callable[[Array, Array], float]

BINARY: Mapping[str, Metric] = {
    "roc_auc": roc_auc,
    "average_precision": average_precision,
    "log_loss": log_loss,
    "brier": brier,
    "ece": ece,
}
REGRESSION: Mapping[str, Metric] = {"mae": mae, "rmse": rmse, "r2": r2, "spearman": spearman}
RANKING = ("roc_auc", "average_precision", "spearman")


def metrics_of(kind: Literal["binary", "regression"], label: Array, score: Array) -> dict[str, float]:
    """Every metric for this kind of label, by name."""
    functions = BINARY if kind == "binary" else REGRESSION
    return {name: function(label, score) for name, function in functions.items()}


def gain(metric: str, value: float, reference: float) -> float:
    """How much better `value` is than `reference`: positive is better, whatever the metric's direction."""
    return reference - value if metric in LESS_IS_BETTER else value - reference
