"""Metrics of predictions against labels, in plain numpy, without nulls.

Labels and scores are float64 [n], classes as positions; quantiles float64 [n, levels], in ascending order;
probabilities of classes float64 [n, classes]. `weight`, float64 [n], is the weight of each row; None: equal weights.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from forecache.base.ranking import mark_changes
from forecache.base.statistics import class_losses, cross_entropy, pinball_losses

Array = NDArray[np.float64]

LESS_IS_BETTER = frozenset(
    {"log_loss", "brier", "ece", "mae", "rmse", "pinball_loss", "coverage_error", "interval_width"}
)


def roc_auc(label: Array, score: Array, weight: Array | None = None) -> float:
    """Probability that a positive scores above a negative, ties counting half; NaN if one class is missing."""
    if weight is not None:
        return weighted_roc_auc(label, score)(weight)
    positives = label > 0.5
    n_positive, n_negative = int(positives.sum()), int((~positives).sum())
    if not n_positive or not n_negative:
        return float("nan")
    ranks = average_ranks(score)
    return float((ranks[positives].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def average_precision(label: Array, score: Array, weight: Array | None = None) -> float:
    """Mean precision over recall, as the step-wise sum over distinct scores; NaN without positives."""
    positives = label > 0.5
    if not positives.any():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    last_of_score = np.append(mark_changes(score[order]), True)
    if weight is None:
        true = np.cumsum(positives[order])[last_of_score]
        precision = true / (np.flatnonzero(last_of_score) + 1)
        return float(np.sum(np.diff(true, prepend=0) * precision) / positives.sum())
    found = np.cumsum((positives * weight)[order])[last_of_score]
    precision = found / np.cumsum(weight[order])[last_of_score]
    return float(np.sum(np.diff(found, prepend=0) * precision) / found[-1])


def log_loss(label: Array, score: Array, weight: Array | None = None) -> float:
    """Mean cross-entropy in nats, scores clipped to [1e-7, 1 - 1e-7]."""
    return float(np.average(cross_entropy(label, score), weights=weight))


def brier(label: Array, score: Array, weight: Array | None = None) -> float:
    return float(np.average((score - label) ** 2, weights=weight))


def ece(label: Array, score: Array, weight: Array | None = None, *, bins: int = 15) -> float:
    """Expected calibration error over equal-mass bins (Naeini, Cooper, Hauskrecht 2015, with equal-mass bins)."""
    groups = np.array_split(np.argsort(score, kind="stable"), min(bins, len(score)))
    if weight is None:
        gaps = [abs(score[group].mean() - label[group].mean()) * len(group) for group in groups]
        return float(sum(gaps) / len(score))
    weighted = [abs(float(weight[group] @ (score[group] - label[group]))) for group in groups]
    return float(sum(weighted) / weight.sum())


def mae(label: Array, score: Array, weight: Array | None = None) -> float:
    return float(np.average(np.abs(score - label), weights=weight))


def rmse(label: Array, score: Array, weight: Array | None = None) -> float:
    return float(np.sqrt(np.average((score - label) ** 2, weights=weight)))


def r2(label: Array, score: Array, weight: Array | None = None) -> float:
    """Share of the label's variance that is explained; NaN if the label does not vary."""
    variance = np.average((label - np.average(label, weights=weight)) ** 2, weights=weight)
    return float(1 - np.average((score - label) ** 2, weights=weight) / variance) if variance else float("nan")


def spearman(label: Array, score: Array, weight: Array | None = None) -> float:
    """Rank correlation; NaN if the labels or the scores do not vary. Weights do not change the ranks."""
    a, b = average_ranks(label), average_ranks(score)
    if not np.ptp(a) or not np.ptp(b):
        return float("nan")
    a, b = a - np.average(a, weights=weight), b - np.average(b, weights=weight)
    c = b if weight is None else weight * b
    scale = float(np.sqrt((a @ a if weight is None else (weight * a) @ a) * (c @ b)))
    return float(a @ c) / scale if scale else float("nan")


def weighted_roc_auc(label: Array, score: Array) -> Callable[[Array], float]:
    """The area under the curve as a function of row weights [n]; work that does not depend on them is done once."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.append(True, mark_changes(score[order])))
    positive = (label > 0.5).astype(np.float64)

    def auc(weights: Array) -> float:
        up = np.add.reduceat((weights * positive)[order], starts)
        down = np.add.reduceat((weights * (1 - positive))[order], starts)
        below = np.cumsum(down) - down
        pairs = up.sum() * down.sum()
        return float(up @ (below + down / 2) / pairs) if pairs else float("nan")

    return auc


def gini(label: Array, score: Array, weight: Array | None = None) -> float:
    """Area between the gain curve of the scores and that of a random order, over that of the best order: 1 for the best
    order, 0 for a random one. NaN if the labels do not vary or their sum is not positive."""
    return weighted_gini(label, score)(np.ones(len(label)) if weight is None else weight)


def top_decile(label: Array, score: Array, weight: Array | None = None) -> float:
    """Share of the sum of the labels that the tenth of the rows with the highest scores has: 0.1 for a random order.
    NaN if the sum is not positive. Of rows with equal scores at the border, each counts with the same part."""
    return weighted_top_decile(label, score)(np.ones(len(label)) if weight is None else weight)


def weighted_gini(label: Array, score: Array) -> Callable[[Array], float]:
    """`gini` as a function of row weights [n]; the rows are sorted once."""
    found, best = gain_curve(label, score), gain_curve(label, label)

    def area(curve: tuple[Array, Array]) -> float:
        return float(np.trapezoid(curve[1], curve[0])) - 0.5

    def normalised(weights: Array) -> float:
        most = area(best(weights))
        return area(found(weights)) / most if most > 1e-12 else float("nan")

    return normalised


def weighted_top_decile(label: Array, score: Array) -> Callable[[Array], float]:
    """`top_decile` as a function of row weights [n]; the rows are sorted once."""
    curve = gain_curve(label, score)
    return lambda weights: float(np.interp(0.1, *curve(weights)))


def gain_curve(label: Array, score: Array) -> Callable[[Array], tuple[Array, Array]]:
    """The cumulative gain as a function of row weights [n]: shares of the rows, highest scores first, and of the sum of
    the labels that they have, both from 0 to 1, float64 [distinct scores + 1]; NaN if that sum is not positive. Between
    two points lie rows of equal scores, whose order is random."""
    order = np.argsort(-score, kind="stable")
    starts = np.flatnonzero(np.append(True, mark_changes(score[order])))

    def curve(weights: Array) -> tuple[Array, Array]:
        rows = np.cumsum(np.add.reduceat(weights[order], starts))
        gains = np.cumsum(np.add.reduceat((weights * label)[order], starts))
        total = gains[-1] if gains[-1] > 0 else np.nan
        return np.append(0.0, rows / rows[-1]), np.append(0.0, gains / total)

    return curve


def average_ranks(values: Array) -> Array:
    """Ranks from 1, ties sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Array = (last - (counts - 1) / 2)[inverse]
    return ranks


BINARY: Mapping[str, Callable[..., float]] = {
    "roc_auc": roc_auc,
    "average_precision": average_precision,
    "log_loss": log_loss,
    "brier": brier,
    "ece": ece,
}
REGRESSION: Mapping[str, Callable[..., float]] = {
    "mae": mae,
    "rmse": rmse,
    "r2": r2,
    "spearman": spearman,
    "gini": gini,
    "top_decile": top_decile,
}
SORTED_ONCE: Mapping[str, Callable[[Array, Array], Callable[[Array], float]]] = {
    "roc_auc": weighted_roc_auc,
    "gini": weighted_gini,
    "top_decile": weighted_top_decile,
}
"""Metrics of one score a row as functions of row weights, which sort the rows once for many weights."""


def pinball_loss(levels: Sequence[float], label: Array, score: Array, weight: Array | None = None) -> float:
    """Mean pinball loss over rows and levels, in the label's unit (Koenker and Bassett 1978)."""
    return float(np.average(pinball_losses(label, score, levels), weights=weight))


def coverage_error(levels: Sequence[float], label: Array, score: Array, weight: Array | None = None) -> float:
    """Mean over the levels of the distance between the share of labels up to the quantile and the level."""
    observed = coverage(label, score, weight)
    return float(np.mean(np.abs(observed - np.asarray(levels))))


def interval_width(levels: Sequence[float], label: Array, score: Array, weight: Array | None = None) -> float:
    """Mean distance between the lowest and the highest quantile, in the label's unit."""
    return float(np.average(score[:, -1] - score[:, 0], weights=weight))


def coverage(label: Array, score: Array, weight: Array | None = None) -> Array:
    """Share of labels up to each quantile, float64 [levels]."""
    found: Array = np.average(label[:, None] <= score, axis=0, weights=weight)
    return found


QUANTILES: Mapping[str, Callable[..., float]] = {
    "pinball_loss": pinball_loss,
    "coverage_error": coverage_error,
    "interval_width": interval_width,
}


BEST = 3


def class_log_loss(label: Array, score: Array, weight: Array | None = None) -> float:
    """Mean cross-entropy in nats, probabilities clipped from below to 1e-7."""
    return float(np.average(class_losses(label, score), weights=weight))


def accuracy(label: Array, score: Array, weight: Array | None = None) -> float:
    return float(np.average(score.argmax(axis=1) == label, weights=weight))


def top_3_accuracy(label: Array, score: Array, weight: Array | None = None) -> float:
    """Share of rows whose true class is among the three most likely; of equally likely ones the first count."""
    best = np.argsort(-score, axis=1, kind="stable")[:, :BEST]
    return float(np.average((best == label[:, None]).any(axis=1), weights=weight))


def macro_f1(label: Array, score: Array, weight: Array | None = None) -> float:
    """Mean over the classes that occur or are predicted of F1, the harmonic mean of precision and recall."""
    weights = np.ones(len(label)) if weight is None else weight
    classes, predicted, true = score.shape[1], score.argmax(axis=1), label.astype(np.int64)
    hits = np.bincount(true[predicted == true], weights[predicted == true], minlength=classes)
    both = np.bincount(true, weights, minlength=classes) + np.bincount(predicted, weights, minlength=classes)
    there = both > 0
    return float(np.mean(2 * hits[there] / both[there]))


def macro_roc_auc(label: Array, score: Array, weight: Array | None = None) -> float:
    """Mean over the classes of the area under the curve of each against all others; NaN without two classes."""
    return mean_of_known([roc_auc((label == i).astype(np.float64), score[:, i], weight) for i in range(score.shape[1])])


def class_ece(label: Array, score: Array, weight: Array | None = None) -> float:
    """Mean over the classes of each one's expected calibration error (Kull and others 2019, classwise ECE)."""
    errors = [ece((label == i).astype(np.float64), score[:, i], weight) for i in range(score.shape[1])]
    return float(np.mean(errors))


def mean_of_known(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]
    return float(np.mean(known)) if known else float("nan")


def map_classes(score: Array, known: Sequence[str], wanted: Sequence[str]) -> Array:
    """Probabilities of the wanted classes from those of the model's classes; a class unknown to the model has 0."""
    if tuple(known) == tuple(wanted):
        return score
    found = np.zeros((len(score), len(wanted)))
    for position, name in enumerate(wanted):
        if name in known:
            found[:, position] = score[:, list(known).index(name)]
    return found


MULTICLASS: Mapping[str, Callable[..., float]] = {
    "log_loss": class_log_loss,
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "top_3_accuracy": top_3_accuracy,
    "roc_auc": macro_roc_auc,
    "ece": class_ece,
}
