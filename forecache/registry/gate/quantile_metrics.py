"""Metrics of quantiles, float64 [n, levels] in ascending order, against labels, float64 [n].

`weight`, float64 [n], says how much each row counts; None: all the same.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from forecache.registry.gate.metrics import Array
from forecache.statistics import pinball_losses


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
