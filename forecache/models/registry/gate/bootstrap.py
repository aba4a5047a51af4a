"""Bootstrap intervals (Efron 1979) of a metric and of its gain; for a gain both scores are resampled by the same rows.

For a real-time model, requests are resampled, as the rows of one request are not independent.

`label` is float64 [n], `score` and `reference` [n] or [n, values] over the same rows; `weight`, float64 [n], is the
weight of each row, None: equal weights.
"""

from collections.abc import Callable

import numpy as np

from forecache.base.ranking import mean_of_requests, weight_of_requests
from forecache.base.statistics import bootstrap_interval, cross_entropy
from forecache.models.registry.gate.class_metrics import mean_of_known
from forecache.models.registry.gate.metric_judge import MetricJudge
from forecache.models.registry.gate.score_metrics import Array, weighted_roc_auc

_MEANS = ("mae", "rmse", "brier", "log_loss")


def gain_interval(
    judge: MetricJudge,
    metric: str,
    label: Array,
    score: Array,
    reference: Array,
    weight: Array | None = None,
    *,
    seed: int,
) -> tuple[float, float]:
    """95 percent confidence interval (low, high) of the gain of `score` over `reference`."""
    ours, theirs = (weighted_metric(judge, metric, label, each, weight) for each in (score, reference))
    units = _num_units(judge, label)
    return bootstrap_interval(lambda times: judge.gain(metric, ours(times), theirs(times)), units, seed=seed)


def metric_interval(
    judge: MetricJudge, metric: str, label: Array, score: Array, weight: Array | None = None, *, seed: int
) -> tuple[float, float]:
    """95 percent confidence interval (low, high) of the metric."""
    return bootstrap_interval(weighted_metric(judge, metric, label, score, weight), _num_units(judge, label), seed=seed)


def _num_units(judge: MetricJudge, label: Array) -> int:
    """Number of rows, or of requests, that are resampled."""
    return len(label) if judge.sizes is None else len(judge.sizes)


def weighted_metric(
    judge: MetricJudge, metric: str, label: Array, score: Array, weight: Array | None = None
) -> Callable[[Array], float]:
    """The metric as a function of how often each row, or request, was drawn, whole numbers [n]; work that does not
    depend on the draw is done once."""
    sizes = judge.sizes
    if sizes is None:
        return _row_metric(judge, metric, label, score, weight)
    if judge.by_request:
        values, of_request = judge.by_request[metric](label, score, sizes), weight_of_requests(weight, sizes)
        return lambda times: mean_of_requests(values, times * of_request)
    by_row = _row_metric(judge, metric, label, score, weight)
    return lambda times: by_row(np.repeat(times, sizes))


def _row_metric(
    judge: MetricJudge, metric: str, label: Array, score: Array, weight: Array | None
) -> Callable[[Array], float]:
    own, function = 1.0 if weight is None else weight, judge.metrics[metric]
    if metric == "roc_auc" and judge.task == "multiclass":
        classes = [weighted_roc_auc((label == i).astype(np.float64), score[:, i]) for i in range(score.shape[1])]
        return lambda times: mean_of_known([auc(times * own) for auc in classes])
    if metric == "roc_auc":
        auc = weighted_roc_auc(label, score)
        return lambda times: auc(times * own)
    if metric in _MEANS and judge.task in ("binary", "regression"):
        return _weighted_mean(metric, label, score, own)

    def repeated_rows_metric(times: Array) -> float:
        rows = np.repeat(np.arange(len(label)), times.astype(np.int64))
        return function(label[rows], score[rows], None if weight is None else weight[rows])

    return repeated_rows_metric


def _weighted_mean(metric: str, label: Array, score: Array, own: "Array | float") -> Callable[[Array], float]:
    losses = {
        "mae": np.abs(score - label),
        "rmse": (score - label) ** 2,
        "brier": (score - label) ** 2,
        "log_loss": cross_entropy(label, score),
    }[metric]

    def mean(times: Array) -> float:
        weights = times * own
        value = float(weights @ losses / weights.sum())
        return float(np.sqrt(value)) if metric == "rmse" else value

    return mean
