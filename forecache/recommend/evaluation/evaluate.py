"""Judge a recommender on the users of a test: metrics user by user, and its gain over simple models with intervals."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from forecache.errors import InputError
from forecache.recommend.evaluation import metrics
from forecache.recommend.evaluation.split import Split
from forecache.recommend.filters import Filters
from forecache.recommend.interactions import Codes, Interactions
from forecache.recommend.lists import rank
from forecache.recommend.models import Fitted
from forecache.statistics import mean_difference_interval

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

MODEL = "model"


@dataclass(frozen=True, eq=False)
class Judged:
    """How good one model's lists are.

    Attributes:
        per_user: "ndcg", "recall", "precision" and "novelty" of each user, float64 [users].
        coverage: Share of all items that are on at least one list.
    """

    per_user: Mapping[str, metrics.PerUser]
    coverage: float

    def mean(self, metric: str) -> float:
        return float(np.nanmean(self.per_user[metric]))


@dataclass(frozen=True)
class Gain:
    """By how much the mean of a metric is above that of another model, and the 95 percent interval of that."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Models on the same users.

    Attributes:
        users: Codes of the users who have something relevant in the test, int32 [users].
        models: By name; `MODEL` is the one that is judged.
    """

    k: int
    users: Codes
    models: Mapping[str, Judged]

    def gain(self, metric: str, reference: str, *, model: str = MODEL, seed: int = 0) -> Gain:
        """The gain of a model over a reference, by a bootstrap of users in which both have the same ones (paired)."""
        ours, theirs = (self.models[name].per_user[metric] for name in (model, reference))
        low, high = mean_difference_interval(ours, theirs, seed=seed)
        return Gain(float((ours - theirs).mean()), low, high)


def evaluate(fitted: Mapping[str, Fitted], split: Split, *, k: int = 10, exclude_seen: bool) -> Evaluation:
    """Judge fitted models by the lists that they make of the training side for the users of the test.

    Raises:
        InputError: No user has anything relevant in the test.
    """
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
        models[name] = _judged(lists, relevant[users], share)
    return Evaluation(k, users, models)


def best_items(fitted: Fitted, interactions: Interactions, users: Codes, k: int, *, filters: Filters) -> Codes:
    """The k best items of some users of the interactions, int32 [users, k]; -1 behind the end of a shorter list."""
    return np.concatenate([part.items for part in rank(fitted, fitted.history(interactions)[users], k, filters)])


def _judged(lists: Codes, relevant: "csr_matrix", share: np.ndarray) -> Judged:
    per_user = {
        "ndcg": metrics.ndcg(lists, relevant),
        "recall": metrics.recall(lists, relevant),
        "precision": metrics.precision(lists, relevant),
        "novelty": metrics.novelty(lists, share),
    }
    return Judged(per_user, metrics.coverage(lists, relevant.shape[1]))
