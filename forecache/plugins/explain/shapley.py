"""Shapley values of one row of features, for any model.

The value of a set of features is the mean score over background rows in which these features are replaced by the row's
own (interventional, as in Lundberg and Lee 2017). Few features are enumerated; with more, permutations are drawn
(Castro, Gomez and Tejada 2009; Strumbelj and Kononenko 2014).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial

import numpy as np

Score = Callable[[np.ndarray], np.ndarray]
"""float32 [n, d] -> [n]."""
MOST_ENUMERATED = 8
PERMUTATIONS = 1024
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class ShapleyValues:
    """Contributions of the features of one row: `base` and their sum are the row's score.

    Attributes:
        base: Mean score of the background.
        contributions: float64 [d].
        errors: Standard error of each, float64 [d]; zeros if nothing was drawn.
        permutations: Number of drawn permutations; 0: all sets of features were enumerated.
    """

    base: float
    contributions: np.ndarray
    errors: np.ndarray
    permutations: int


def compute_shapley(
    score: Score, row: np.ndarray, background: np.ndarray, *, permutations: int = PERMUTATIONS, seed: int = 0
) -> ShapleyValues:
    """Compute the Shapley values of a row.

    Args:
        row: float32 [d]; may have NaN.
        background: float32 [b, d], b > 0.
        permutations: Least number; a multiple of b is drawn, so that each background row counts the same.
    """
    differs = np.flatnonzero(((background != row) & ~(np.isnan(background) & np.isnan(row))).any(axis=0))
    if len(differs) <= MOST_ENUMERATED:
        return _enumerate_sets(score, row, background, differs)
    return _draw_permutations(score, row, background, differs, permutations, seed)


def _enumerate_sets(score: Score, row: np.ndarray, background: np.ndarray, places: np.ndarray) -> ShapleyValues:
    """Enumerate all sets of the features at `places`; the others are the same everywhere and contribute nothing."""
    count = len(places)
    means = np.empty(1 << count)
    for chosen in range(1 << count):
        mixed = background.copy()
        picked = [place for bit, place in enumerate(places) if chosen >> bit & 1]
        mixed[:, picked] = row[picked]
        means[chosen] = np.asarray(score(mixed), np.float64).mean()
    found = np.zeros(len(row))
    weights = [factorial(size) * factorial(count - size - 1) / factorial(count) for size in range(count)]
    for bit, place in enumerate(places):
        for chosen in range(1 << count):
            if not chosen >> bit & 1:
                found[place] += weights[chosen.bit_count()] * (means[chosen | 1 << bit] - means[chosen])
    return ShapleyValues(float(means[0]), found, np.zeros(len(row)), 0)


def _draw_permutations(
    score: Score, row: np.ndarray, background: np.ndarray, places: np.ndarray, permutations: int, seed: int
) -> ShapleyValues:
    """Draw permutations in which the features at `places` are replaced one after the other."""
    rng, count = np.random.default_rng(seed), len(places)
    rounds = max(2, -(-permutations // len(background)))
    drawn = np.empty((rounds * len(background), count))
    base = 0.0
    at_once = max(1, _ROWS_AT_ONCE // (count + 1))
    for first in range(0, len(drawn), at_once):
        numbers = np.arange(first, min(first + at_once, len(drawn)))
        orders = np.argsort(rng.random((len(numbers), count)), axis=1)
        rows = np.repeat(background[numbers % len(background)][:, None, :], count + 1, axis=1)
        for step in range(count):
            changed = places[orders[:, step]]
            rows[np.arange(len(numbers)), step + 1 :, changed] = row[changed][:, None]
        scores = np.asarray(score(rows.reshape(-1, len(row))), np.float64).reshape(len(numbers), count + 1)
        np.put_along_axis(drawn[first : first + len(numbers)], orders, np.diff(scores, axis=1), axis=1)
        base += scores[:, 0].sum()
    found, errors = np.zeros(len(row)), np.zeros(len(row))
    found[places] = drawn.mean(axis=0)
    errors[places] = drawn.std(axis=0, ddof=1) / np.sqrt(len(drawn))
    return ShapleyValues(base / len(drawn), found, errors, len(drawn))
