"""Statistics: distances of distributions (PSI, Jensen-Shannon) over bins, losses of rows, bootstrap intervals.

Every figure of Forecache that compares distributions is computed here, so that the same rows have the same figure in
the gate, at a publish, in drift checks and in reports.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pyspark.sql import Column

_SMALLEST_SHARE = 1e-4
"""Smaller shares are raised to this, so that an empty bin does not make the index infinite."""

_SMALLEST_PROBABILITY = 1e-7
_RESAMPLES = 400
_TAIL = (1 - 0.95) / 2

Floats = NDArray[np.floating[Any]]
Numbers = Sequence[float] | NDArray[Any]


@dataclass(frozen=True)
class Distance:
    """Distance of a distribution from a reference."""

    psi: float  # population stability index: below 0.1 stable, above 0.25 a shift (Siddiqi 2006)
    js: float  # Jensen-Shannon, base 2: 0 if equal, 1 if nothing overlaps (Endres and Schindelin 2003)
    rows: int
    reference_rows: int


def distance(reference: Sequence[int], counts: Sequence[int]) -> Distance:
    """Compare counts in the same bins; both must have rows."""
    old, new = np.asarray(reference, float), np.asarray(counts, float)
    return Distance(psi(old, new), _jensen_shannon(old, new), int(new.sum()), int(old.sum()))


def psi(reference: Numbers, counts: Numbers) -> float:
    """Sum of (q - p) * ln(q / p) over the shares of two histograms over the same bins; 0.0 if one has no rows."""
    old, new = np.asarray(reference, float), np.asarray(counts, float)
    if old.sum() <= 0 or new.sum() <= 0:
        return 0.0
    p = np.maximum(old / old.sum(), _SMALLEST_SHARE)
    q = np.maximum(new / new.sum(), _SMALLEST_SHARE)
    return float(((q - p) * np.log(q / p)).sum())


def cross_entropy(label: Floats, probability: Floats) -> NDArray[np.float64]:
    """Binary cross-entropy of each row, in nats, float64 [n]; probabilities are clipped to [1e-7, 1 - 1e-7]."""
    clipped = np.clip(probability.astype(np.float64), _SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY)
    return -np.where(label > 0.5, np.log(clipped), np.log1p(-clipped))


def class_losses(label: Floats, shares: Floats) -> NDArray[np.float64]:
    """Compute the cross-entropy of each row, in nats, float64 [n], from the index of its class [n].

    `shares`, [n, classes], are the probabilities; they are clipped from below to 1e-7.
    """
    true = np.take_along_axis(shares.astype(np.float64), label.astype(np.int64)[:, None], axis=1)[:, 0]
    return -np.log(np.maximum(true, _SMALLEST_PROBABILITY))


def pinball_losses(label: Floats, quantiles: Floats, levels: Sequence[float]) -> NDArray[np.float64]:
    """Compute the pinball loss of each row over [n, levels] quantiles, float64 [n] (Koenker and Bassett 1978)."""
    difference = label.astype(np.float64)[:, None] - quantiles
    level = np.asarray(levels)
    return np.maximum(level * difference, (level - 1) * difference).mean(axis=1)


def quantile_edges(values: Floats, bins: int) -> NDArray[np.float64]:
    """Inner edges, float64 [at most bins - 1], of bins that hold about as many of the values each."""
    return np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1]).astype(np.float64))


def equal_mass_edges(values: Floats, bins: int) -> list[float]:
    """Like `quantile_edges`, but each edge is one of the values; a value that fills several bins gets its own bin.

    NaN is left out; the result is empty if there is nothing else.
    """
    known = np.sort(values[~np.isnan(values)]).astype(np.float64)
    if not len(known):
        return []
    shares = np.linspace(0, 1, bins + 1)[1:-1]
    cuts, times = np.unique(np.quantile(known, shares, method="inverted_cdf"), return_counts=True)
    behind = np.searchsorted(known, cuts[times > 1], side="right")
    return sorted({*cuts.tolist(), *known[behind[behind < len(known)]].tolist()})


def bin_counts(edges: Numbers, values: Floats) -> NDArray[np.int64]:
    """Values in each bin, int64 [edges + 1]; a value equal to an edge counts above it."""
    edges = np.asarray(edges, float)
    return np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)


def bin_of(column: "Column", edges: Numbers) -> "Column":
    """The index of the bin of each value of a Spark column, by the rule of `bin_counts`."""
    from pyspark.sql import functions as F

    return sum(((column >= F.lit(float(edge))).cast("int") for edge in edges), F.lit(0))


def merge_bins(edges: Sequence[float], counts: Sequence[int], num_bins: int) -> tuple[list[float], list[int]]:
    """Merge neighbouring bins until each holds at least 1/`num_bins` of the rows; returns inner edges and counts."""
    least = sum(counts) / num_bins
    kept: list[float] = []
    merged: list[int] = [0]
    for edge, count in zip([*edges, None], counts, strict=True):
        merged[-1] += count
        if edge is not None and merged[-1] >= least:
            kept.append(edge)
            merged.append(0)
    if kept and merged[-1] < least:
        rest = merged.pop()
        merged[-1] += rest
        kept.pop()
    return kept, merged


def bootstrap_interval(
    statistic: Callable[[NDArray[np.float64]], float], rows: int, *, seed: int
) -> tuple[float, float]:
    """Compute the 95 percent interval of a statistic, by percentiles of a bootstrap of 400 resamples (Efron 1979).

    The statistic gets the number of times that each row was drawn, float64 [rows]; NaN results are left out.
    """
    rng = np.random.default_rng(seed)
    values = np.empty(_RESAMPLES)
    for number in range(_RESAMPLES):
        weights = np.bincount(rng.integers(0, rows, rows), minlength=rows).astype(np.float64)
        values[number] = statistic(weights)
    low, high = np.nanquantile(values, [_TAIL, 1 - _TAIL])
    return float(low), float(high)


def mean_difference_interval(ours: Floats, theirs: Floats, *, seed: int) -> tuple[float, float]:
    """The interval of the mean of ours - theirs, float [rows] each, paired by row."""
    difference = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    return bootstrap_interval(lambda weights: float(weights @ difference / weights.sum()), len(difference), seed=seed)


def _jensen_shannon(old: Floats, new: Floats) -> float:
    p, q = old / old.sum(), new / new.sum()
    middle = (p + q) / 2
    return float(np.sqrt(max(0.0, (_entropy_against(p, middle) + _entropy_against(q, middle)) / 2)))


def _entropy_against(p: Floats, q: Floats) -> float:
    there = p > 0
    return float((p[there] * np.log2(p[there] / q[there])).sum())
