"""Ranking metrics of each request: the quality of the order that scores give its candidates.

`label` and `score` are float64 [n], the rows of a request one after the other; `sizes`, int64 [requests], is the number
of rows of each. A label is the relevance of a candidate, 0 and up. Candidates with equal scores have no order: a metric
is then its mean over all their orders (McSherry and Najork, "Computing information retrieval performance measures
efficiently in the presence of tied scores", 2008), so that equal scores for all are worth as much as a random order. A
request without a candidate above 0 is NaN: no order of it is better than another.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Sizes = NDArray[np.int64]
PerRequest = Callable[[Array, Array, Sizes], Array]
DEFAULT_PLACES = 10  # the number of places by which a ranking is judged by default


def ndcg(label: Array, score: Array, sizes: Sizes, *, places: int) -> Array:
    """Discounted gain of the first places over that of the best order, float64 [requests]; see `ndcg_at`."""
    return ndcg_at(label, score, sizes, places=[places])[0]


def ndcg_at(label: Array, score: Array, sizes: Sizes, *, places: Sequence[int]) -> list[Array]:
    """For each number of places, the discounted gain of the first ones over that of the best order.

    The candidate at place r, from 1, adds (2^label - 1) / log2(r + 1). Järvelin and Kekäläinen, "Cumulated gain-based
    evaluation of IR techniques" (2002), with the gain and discount of Burges et al., "Learning to rank using gradient
    descent" (2005).
    """
    gain = np.exp2(label) - 1
    place = np.arange(int(sizes.max(initial=0)))
    discounts = [np.where(place < most, 1 / np.log2(place + 2), 0.0) for most in places]
    found, best = (_sums_by_place(gain, by, sizes, discounts) for by in (score, gain))
    return [_ratio(over, under) for over, under in zip(found, best, strict=True)]


def recall(label: Array, score: Array, sizes: Sizes, *, places: int) -> Array:
    """Share of a request's candidates above 0 that are in the first places, float64 [requests]."""
    good = (label > 0).astype(np.float64)
    counts = (np.arange(int(sizes.max(initial=0))) < places).astype(np.float64)
    return _ratio(_sums_by_place(good, score, sizes, [counts])[0], _sums(good, sizes))


def reciprocal_rank(label: Array, score: Array, sizes: Sizes) -> Array:
    """One over the place of the first candidate above 0, float64 [requests]."""
    request, order = _request_of(sizes), _order(score, sizes)
    good, tied, starts = (label > 0)[order], *_ties(score[order], request)
    in_tie, found = np.bincount(tied), np.bincount(tied, good)
    place = starts - _starts(sizes)[request[starts]]
    values = np.full(len(sizes), np.nan)
    best = np.flatnonzero(found)
    owner, first = np.unique(request[starts[best]], return_index=True)
    for number, tie in zip(owner, best[first], strict=True):
        values[number] = _expected_reciprocal(int(place[tie]), int(in_tie[tie]), int(found[tie]))
    return values


def weight_of_requests(weight: Array | None, sizes: Sizes) -> Array:
    """The weight of each request, float64 [requests]: that of its rows, which all have the same weight."""
    return np.ones(len(sizes)) if weight is None else weight[_starts(sizes)]


def mean_of_requests(values: Array, weight: Array) -> float:
    """The weighted mean of the values that are not NaN; NaN if there are none."""
    known = ~np.isnan(values) & (weight > 0)
    return float(np.average(values[known], weights=weight[known])) if known.any() else float("nan")


def sizes_of(requests: NDArray[np.object_]) -> Sizes:
    """The sizes of runs of equal values [n], int64 [requests]."""
    if not len(requests):
        return np.zeros(0, np.int64)
    starts = np.flatnonzero(np.append(True, mark_changes(requests)))
    return np.diff(np.append(starts, len(requests)))


def mark_changes(values: NDArray[Any]) -> NDArray[np.bool_]:
    """True where a value differs from the one before it, bool [n - 1]; infinite values can be equal."""
    differs: NDArray[np.bool_] = values[1:] != values[:-1]
    return differs


def _sums_by_place(gain: Array, score: Array, sizes: Sizes, worths: Sequence[Array]) -> list[Array]:
    """For each worth of the places, the sum of gain times worth over each request's rows.

    Tied rows share the mean worth of their places.
    """
    request, order = _request_of(sizes), _order(score, sizes)
    tied, _ = _ties(score[order], request)
    place, in_tie, ordered = np.arange(len(order)) - _starts(sizes)[request], np.bincount(tied), gain[order]
    return [_sums(ordered * (np.bincount(tied, worth[place]) / in_tie)[tied], sizes) for worth in worths]


def _order(score: Array, sizes: Sizes) -> NDArray[np.int64]:
    return np.lexsort((-score, _request_of(sizes)))


def _ties(ordered: Array, request: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The number of each ordered row's run of equal scores [n], and the first row of each run."""
    new = np.append(True, mark_changes(ordered) | mark_changes(request))[: len(ordered)]
    return np.cumsum(new) - 1, np.flatnonzero(new)


def _request_of(sizes: Sizes) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(sizes)), sizes)


def _starts(sizes: Sizes) -> NDArray[np.int64]:
    return np.cumsum(sizes) - sizes


def _sums(values: Array, sizes: Sizes) -> Array:
    sums: Array = np.bincount(_request_of(sizes), values, minlength=len(sizes)).astype(np.float64)
    return sums


@lru_cache(maxsize=1 << 16)
def _expected_reciprocal(before: int, rows: int, good: int) -> float:
    """The mean of 1 / place of the first good one of `rows` tied candidates over all orders, after `before` others."""
    ways = math.comb(rows, good)
    later = range(1, rows - good + 2)
    return sum(math.comb(rows - place, good - 1) / ways / (before + place) for place in later)


def _ratio(over: Array, under: Array) -> Array:
    return np.divide(over, under, out=np.full(len(over), np.nan), where=under > 0)


def descending_order(scores: NDArray[Any]) -> NDArray[np.intp]:
    """Positions of the scores [n], the highest first; equal ones in the given order, NaN last."""
    return (-scores).argsort(kind="stable")
