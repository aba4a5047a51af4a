"""Metrics of the probabilities of classes, float64 [n, classes], against the positions of the true ones, float64 [n].

`weight`, float64 [n], is the weight of each row; None: equal weights.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from forecache.base.statistics import class_losses
from forecache.models.registry.gate.score_metrics import Array, ece, roc_auc

BEST = 3


def log_loss(label: Array, score: Array, weight: Array | None = None) -> float:
    """Mean cross-entropy in nats, probabilities clipped from below to 1e-7."""
    return float(np.average(class_losses(label, score), weights=weight))


def accuracy(label: Array, score: Array, weight: Array | None = None) -> float:
    """Share of rows whose most likely class is the true one."""
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
    """The mean of those that are numbers; NaN without one."""
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
    "log_loss": log_loss,
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "top_3_accuracy": top_3_accuracy,
    "roc_auc": macro_roc_auc,
    "ece": class_ece,
}
