"""Evaluation of a recommender on the users of a test: metrics per user, and gain over simple models with intervals."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from forecache.base.errors import InputError, SettingsError
from forecache.base.statistics import mean_difference_interval
from forecache.plugins.recommend.filters import Filters
from forecache.plugins.recommend.interactions import Codes, Interactions
from forecache.plugins.recommend.lists import rank
from forecache.plugins.recommend.models import Fitted

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


class TrainTestSplit(NamedTuple):
    """Interactions for training and for the test; both have the vocabularies of all interactions."""

    train: Interactions
    test: Interactions


def split_by_day(interactions: Interactions, day: date, *, num_days: int) -> TrainTestSplit:
    """Split by a day: earlier ones are for training, it and the days after, `num_days`, are the test."""
    if num_days < 1:
        raise SettingsError(f"A test of {num_days} days has none.", remedy="Give num_days=1 or more.")
    found = TrainTestSplit(
        interactions.select_before(day), interactions.select_between(day, day + timedelta(days=num_days - 1))
    )
    for side, words in ((found.train, f"before {day}"), (found.test, f"in the {num_days} days from {day} on")):
        if not len(side):
            raise InputError(f"There are no interactions {words}.", remedy="Choose another day.")
    return found


def split_by_user(interactions: Interactions, *, test_share: float, seed: int) -> TrainTestSplit:
    """Put a random share of each user's items into the test, rounded (half to even), and the others into training.

    It depends on the pairs of user and item and on the seed, not on the order of rows. A split that ignores time
    flatters a model: use it only to compare with published figures.
    """
    if not 0 < test_share < 1:
        raise SettingsError(f"A test share of {test_share} is not between 0 and 1.", remedy="Give one such as 0.25.")
    pair = interactions.users.astype(np.int64) * interactions.num_items + interactions.items
    pairs, of_row = np.unique(pair, return_inverse=True)
    users = pairs // max(1, interactions.num_items)
    order = np.lexsort((np.random.default_rng(seed).random(len(pairs)), users))
    counts = np.bincount(users, minlength=interactions.num_users)
    # Users are ascending in `pairs`, so a user's places are the same before and after the shuffle.
    place = np.arange(len(pairs)) - np.repeat(np.cumsum(counts) - counts, counts)
    in_test = np.zeros(len(pairs), bool)
    in_test[order] = place < np.rint(counts * test_share)[users]
    return TrainTestSplit(interactions.select(~in_test[of_row]), interactions.select(in_test[of_row]))


MODEL = "model"
PerUser = NDArray[np.float64]
Grading = Literal["binary", "linear", "exponential"]


@dataclass(frozen=True, eq=False)
class ListMetrics:
    per_user: Mapping[str, PerUser]  # "ndcg", "recall", "precision" and "novelty" of each user, float64 [users]
    coverage: float  # share of all items that are on at least one list

    def mean(self, metric: str) -> float:
        return float(np.nanmean(self.per_user[metric]))


@dataclass(frozen=True)
class Gain:
    """Difference of a metric's mean to that of another model, with its 95 percent interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    k: int
    users: Codes  # codes of the users with a relevant item in the test, int32 [users]
    models: Mapping[str, ListMetrics]  # by name; `MODEL` is the one that is evaluated

    def gain(self, metric: str, reference: str, *, model: str = MODEL, seed: int = 0) -> Gain:
        """The gain of a model over a reference, by a bootstrap of users in which both have the same ones (paired)."""
        ours, theirs = (self.models[name].per_user[metric] for name in (model, reference))
        low, high = mean_difference_interval(ours, theirs, seed=seed)
        return Gain(float((ours - theirs).mean()), low, high)


def evaluate(fitted: Mapping[str, Fitted], split: TrainTestSplit, *, k: int = 10, exclude_seen: bool) -> Evaluation:
    """Evaluate fitted models by the lists that they make of the training side for the users of the test."""
    relevant = split.test.matrix()
    seen = split.train.matrix()
    if exclude_seen:
        relevant = relevant - relevant.multiply(seen > 0)
    relevant.eliminate_zeros()
    users = np.flatnonzero(np.diff(relevant.indptr)).astype(np.int32)
    if not len(users):
        raise InputError(
            "No user of the test has an item that could be recommended.",
            remedy="Choose a longer test, or let lists hold what users had before.",
        )
    filters = Filters(seen=seen[users]) if exclude_seen else Filters()
    num_trained = int(np.count_nonzero(np.diff(seen.indptr)))
    share = np.bincount(seen.indices, minlength=seen.shape[1]) / max(1, num_trained)
    models = {}
    for name, each in fitted.items():
        lists = best_items(each, split.train, users, k, filters=filters)
        models[name] = _measure_lists(lists, relevant[users], share)
    return Evaluation(k, users, models)


def best_items(fitted: Fitted, interactions: Interactions, users: Codes, k: int, *, filters: Filters) -> Codes:
    """The k best items of some users of the interactions, int32 [users, k]; -1 behind the end of a shorter list."""
    return np.concatenate([part.items for part in rank(fitted, fitted.history(interactions)[users], k, filters)])


def _measure_lists(lists: Codes, relevant: "csr_matrix", share: np.ndarray) -> ListMetrics:
    per_user = {
        "ndcg": ndcg(lists, relevant),
        "recall": recall(lists, relevant),
        "precision": precision(lists, relevant),
        "novelty": novelty(lists, share),
    }
    return ListMetrics(per_user, coverage(lists, relevant.shape[1]))


def recall(lists: Codes, relevant: "csr_matrix") -> PerUser:
    """Share of a user's relevant items that are on the list, float64 [users]; NaN for a user without any."""
    return _ratio((_relevance(lists, relevant) > 0).sum(axis=1), _num_relevant(relevant))


def precision(lists: Codes, relevant: "csr_matrix") -> PerUser:
    """Share of k places that hold a relevant item, float64 [users]; an empty place counts as a miss."""
    return _ratio((_relevance(lists, relevant) > 0).sum(axis=1), np.full(len(lists), lists.shape[1]))


def ndcg(lists: Codes, relevant: "csr_matrix", *, gain: Grading = "binary") -> PerUser:
    """Discounted gain of a list over that of the best possible list, float64 [users]; NaN for a user without relevant.

    The item at place r (from 1) adds its gain / log2(r + 1). Järvelin and Kekäläinen, "Cumulated gain-based evaluation
    of IR techniques" (2002), with the discount of Burges et al., "Learning to rank using gradient descent" (2005).
    """
    k = lists.shape[1]
    discount = 1 / np.log2(np.arange(2, k + 2))
    found = _gains(_relevance(lists, relevant), gain) @ discount
    return _ratio(found, _best_lists(relevant, k, gain) @ discount)


def novelty(lists: Codes, popularity: NDArray[np.floating]) -> PerUser:
    """Mean of -log2(share of users who had the item in training) over a list, in bits, float64 [users]; NaN if empty.

    The mean self-information of Zhou et al., "Solving the apparent diversity-accuracy dilemma of recommender systems"
    (2010). An item that nobody had counts as had by one.
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


def _gains(relevance: NDArray[np.float64], gain: Grading) -> NDArray[np.float64]:
    if gain == "binary":
        return (relevance > 0).astype(np.float64)
    return np.maximum(relevance, 0) if gain == "linear" else np.exp2(np.maximum(relevance, 0)) - 1


def _best_lists(relevant: "csr_matrix", k: int, gain: Grading) -> NDArray[np.float64]:
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
