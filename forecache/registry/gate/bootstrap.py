"""Bootstrap intervals (Efron 1979) of a metric and of its gain; for a gain both scores are resampled by the same rows.

All arrays are float64 [n] over the same rows.
"""

from collections.abc import Callable

import numpy as np

from forecache.registry.gate.metrics import BINARY, REGRESSION, Array, gain
from forecache.statistics import bootstrap_interval, cross_entropy


def gain_interval(metric: str, label: Array, score: Array, reference: Array, *, seed: int) -> tuple[float, float]:
    """95 percent confidence interval (low, high) of the gain of `score` over `reference`."""
    ours, theirs = weighted_metric(metric, label, score), weighted_metric(metric, label, reference)
    return bootstrap_interval(lambda weights: gain(metric, ours(weights), theirs(weights)), len(label), seed=seed)


def metric_interval(metric: str, label: Array, score: Array, *, seed: int) -> tuple[float, float]:
    """95 percent confidence interval (low, high) of the metric."""
    return bootstrap_interval(weighted_metric(metric, label, score), len(label), seed=seed)


def weighted_metric(metric: str, label: Array, score: Array) -> Callable[[Array], float]:
    """The metric as a function of integer row weights [n]; work that does not depend on them is done once."""
    if metric == "roc_auc":
        return _weighted_roc_auc(label, score)
    if metric in ("mae", "rmse", "brier", "log_loss"):
        return _weighted_mean(metric, label, score)
    function = {**BINARY, **REGRESSION}[metric]

    def by_repetition(weights: Array) -> float:
        rows = np.repeat(np.arange(len(label)), weights.astype(np.int64))
        return function(label[rows], score[rows])

    return by_repetition


def _weighted_roc_auc(label: Array, score: Array) -> Callable[[Array], float]:
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(score[order]) != 0))
    positive = (label > 0.5).astype(np.float64)

    def auc(weights: Array) -> float:
        up = np.add.reduceat((weights * positive)[order], starts)
        down = np.add.reduceat((weights * (1 - positive))[order], starts)
        below = np.cumsum(down) - down
        pairs = up.sum() * down.sum()
        return float(up @ (below + down / 2) / pairs) if pairs else float("nan")

    return auc


def _weighted_mean(metric: str, label: Array, score: Array) -> Callable[[Array], float]:
    losses = {
        "mae": np.abs(score - label),
        "rmse": (score - label) ** 2,
        "brier": (score - label) ** 2,
        "log_loss": cross_entropy(label, score),
    }[metric]

    def mean(weights: Array) -> float:
        value = float(weights @ losses / weights.sum())
        return float(np.sqrt(value)) if metric == "rmse" else value

    return mean
