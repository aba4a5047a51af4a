"""Metrics of lists per user.

A list is a row of item codes, int32 [users, k], the best first, -1 behind the end of a shorter list. A user's relevant
items are a row of a CSR matrix [users, items] with an entry above 0, the relevance, for each of them.
"""

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from forecache.plugins.recommend.interactions import Codes

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

PerUser = NDArray[np.float64]
Gain = Literal["binary", "linear", "exponential"]


def recall(lists: Codes, relevant: "csr_matrix") -> PerUser:
    """Share of a user's relevant items that are on the list, float64 [users]; NaN for a user without any."""
    return _ratio((_relevance(lists, relevant) > 0).sum(axis=1), _num_relevant(relevant))


def precision(lists: Codes, relevant: "csr_matrix") -> PerUser:
    """Share of k places that hold a relevant item, float64 [users]; an empty place counts as a miss."""
    return _ratio((_relevance(lists, relevant) > 0).sum(axis=1), np.full(len(lists), lists.shape[1]))


def ndcg(lists: Codes, relevant: "csr_matrix", *, gain: Gain = "binary") -> PerUser:
    """Discounted gain of a list over that of the best possible list, float64 [users]; NaN for a user without relevant.

    The item at place r (from 1) adds its gain / log2(r + 1). Järvelin and Kekäläinen, "Cumulated gain-based evaluation
    of IR techniques" (2002), with the discount of Burges et al., "Learning to rank using gradient descent" (2005).

    Args:
        gain: "binary": 1 for each relevant item. "linear": its relevance. "exponential": 2^relevance - 1.
    """
    k = lists.shape[1]
    discount = 1 / np.log2(np.arange(2, k + 2))
    found = _gains(_relevance(lists, relevant), gain) @ discount
    return _ratio(found, _best_lists(relevant, k, gain) @ discount)


def novelty(lists: Codes, popularity: NDArray[np.floating]) -> PerUser:
    """Mean of -log2(share of users who had the item) over a list, in bits, float64 [users]; NaN for an empty list.

    The mean self-information of Zhou et al., "Solving the apparent diversity-accuracy dilemma of recommender systems"
    (2010). An item that nobody had counts as had by one.

    Args:
        popularity: Users who had each item in training, over all users of it, float [items].
    """
    floor = popularity[popularity > 0].min(initial=1.0)
    bits = -np.log2(np.maximum(popularity, floor))
    there = lists >= 0
    return _ratio(np.where(there, bits[lists], 0).sum(axis=1), there.sum(axis=1))


def coverage(lists: Codes, num_items: int) -> float:
    """Share of all items that are on at least one list (Herlocker et al. 2004; Ge et al. 2010: catalogue coverage)."""
    return len(np.unique(lists[lists >= 0])) / num_items


def _relevance(lists: Codes, relevant: "csr_matrix") -> NDArray[np.float64]:
    """Relevance of each place of the lists, float64 [users, k]; 0 without an item, or if it is not relevant."""
    rows = np.repeat(np.arange(len(lists)), lists.shape[1])
    values = np.asarray(relevant[rows, np.maximum(lists, 0).ravel()], np.float64).reshape(lists.shape)
    return np.where(lists >= 0, values, 0)


def _num_relevant(relevant: "csr_matrix") -> NDArray[np.int64]:
    return np.asarray((relevant > 0).sum(axis=1)).ravel().astype(np.int64)


def _gains(relevance: NDArray[np.float64], gain: Gain) -> NDArray[np.float64]:
    if gain == "binary":
        return (relevance > 0).astype(np.float64)
    return np.maximum(relevance, 0) if gain == "linear" else np.exp2(np.maximum(relevance, 0)) - 1


def _best_lists(relevant: "csr_matrix", k: int, gain: Gain) -> NDArray[np.float64]:
    """The k largest gains of each user, descending, float64 [users, k]."""
    rows = np.repeat(np.arange(relevant.shape[0]), np.diff(relevant.indptr))
    gains = _gains(relevant.data.astype(np.float64), gain)
    order = np.lexsort((-gains, rows))
    place = np.arange(len(rows)) - np.repeat(relevant.indptr[:-1], np.diff(relevant.indptr))
    best = np.zeros((relevant.shape[0], k))
    within = place < k
    best[rows[within], place[within]] = gains[order][within]
    return best


def _ratio(over: NDArray, under: NDArray) -> PerUser:  # type: ignore[type-arg]
    return np.divide(over, under, out=np.full(len(over), np.nan), where=under > 0, dtype=np.float64)
