"""Figures of one score a row: precision and recall, cumulative gain, lift, residuals, decisions at thresholds.

`label` and `scores` are float64 [n] over the same rows; all values are JSON-serialisable.
"""

from typing import Any

import numpy as np

from forecache.base.ranking import mark_changes
from forecache.models.registry.gate.score_metrics import Array, gain_curve

_MOST_POINTS = 201
_GAIN_POINTS = 101
_GROUPS = 10
_BINS = 40


def precision_recall_curve(label: Array, scores: Array) -> dict[str, list[float]]:
    """Precision and recall at up to 201 thresholds, each a score, the highest first; empty without positive labels."""
    _, found, chosen = _count_by_threshold(label, scores)
    if not found[-1]:
        return {}
    points = np.unique(np.linspace(0, len(found) - 1, _MOST_POINTS).astype(np.int64))
    precision, recall = found[points] / chosen[points], found[points] / found[-1]
    return {"recall": recall.round(5).tolist(), "precision": precision.round(5).tolist()}


def cumulative_gain(label: Array, scores: Array) -> list[float]:
    """Share of the sum of the labels that each hundredth of the rows has, from 0 to 1, the highest scores first; empty
    if that sum is not positive."""
    rows, gains = gain_curve(label, scores)(np.ones(len(label)))
    grid: Array = np.interp(np.linspace(0, 1, _GAIN_POINTS), rows, gains)
    return grid.round(5).tolist() if np.isfinite(grid).all() else []


def lift_by_tenth(label: Array, scores: Array) -> list[dict[str, float]]:
    """Mean label and mean score of each tenth of the rows, the highest scores first, and the lift: the mean label over
    that of all rows. Empty if that is not positive."""
    overall = float(label.mean())
    if overall <= 0:
        return []
    groups = np.array_split(np.argsort(-scores, kind="stable"), min(_GROUPS, len(scores)))
    means = [(float(label[group].mean()), float(scores[group].mean())) for group in groups]
    return [{"label": mean, "score": score, "lift": mean / overall} for mean, score in means]


def residual_counts(label: Array, scores: Array) -> dict[str, Any]:
    """Counts of prediction minus label in bins of equal width between its 1st and 99th percentile, and its mean and
    median over all rows."""
    residuals = scores - label
    low, high = (float(end) for end in np.quantile(residuals, [0.01, 0.99]))
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    counts = np.histogram(residuals, edges)[0].tolist()
    middle = {"mean": float(residuals.mean()), "median": float(np.median(residuals))}
    return {"edges": edges.tolist(), "counts": counts, "rows": len(label), **middle}


def best_threshold(label: Array, scores: Array) -> float:
    """The score from which on rows are taken as positive with the largest F1, the harmonic mean of precision and
    recall."""
    thresholds, found, chosen = _count_by_threshold(label, scores)
    return float(thresholds[np.argmax(2 * found / (chosen + found[-1]))])


def confusion(label: Array, scores: Array, threshold: float) -> dict[str, Any]:
    """Numbers of rows by label and decision, positive from the threshold on, with precision, recall and F1; None for a
    figure that has no rows."""
    positive, chosen = label > 0.5, scores >= threshold
    true, false = int((positive & chosen).sum()), int((~positive & chosen).sum())
    missed, left = int((positive & ~chosen).sum()), int((~positive & ~chosen).sum())
    counts = {"true_positives": true, "false_positives": false, "false_negatives": missed, "true_negatives": left}
    return {
        "threshold": threshold,
        **counts,
        "precision": true / (true + false) if true + false else None,
        "recall": true / (true + missed) if true + missed else None,
        "f1": 2 * true / (2 * true + false + missed) if true + false + missed else None,
    }


def _count_by_threshold(label: Array, scores: Array) -> tuple[Array, Array, Array]:
    """Each distinct score, the highest first, and how many positive rows and how many rows score at least as much."""
    order = np.argsort(-scores, kind="stable")
    last_of_score = np.flatnonzero(np.append(mark_changes(scores[order]), True))
    found = np.cumsum(label[order] > 0.5)[last_of_score].astype(np.float64)
    return scores[order][last_of_score], found, (last_of_score + 1).astype(np.float64)
