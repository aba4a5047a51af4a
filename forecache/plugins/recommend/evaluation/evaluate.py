"""Evaluation of a recommender on the users of a test: metrics per user, and gain over simple models with intervals."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from forecache.base.errors import InputError
from forecache.base.statistics import mean_difference_interval
from forecache.plugins.recommend.evaluation import metrics
from forecache.plugins.recommend.evaluation.split import TrainTestSplit
from forecache.plugins.recommend.filters import Filters
from forecache.plugins.recommend.interactions import Codes, Interactions
from forecache.plugins.recommend.lists import rank
from forecache.plugins.recommend.models import Fitted

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

MODEL = "model"


@dataclass(frozen=True, eq=False)
class ListMetrics:
    """Metrics of one model's lists.

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
    """Difference of a metric's mean to that of another model, with its 95 percent interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Models on the same users.

    Attributes:
        users: Codes of the users with a relevant item in the test, int32 [users].
        models: By name; `MODEL` is the one that is evaluated.
    """

    k: int
    users: Codes
    models: Mapping[str, ListMetrics]

    def gain(self, metric: str, reference: str, *, model: str = MODEL, seed: int = 0) -> Gain:
        """The gain of a model over a reference, by a bootstrap of users in which both have the same ones (paired)."""
        ours, theirs = (self.models[name].per_user[metric] for name in (model, reference))
        low, high = mean_difference_interval(ours, theirs, seed=seed)
        return Gain(float((ours - theirs).mean()), low, high)


def evaluate(fitted: Mapping[str, Fitted], split: TrainTestSplit, *, k: int = 10, exclude_seen: bool) -> Evaluation:
    """Evaluate fitted models by the lists that they make of the training side for the users of the test.

    Raises:
        InputError: No user has a relevant item in the test.
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
        models[name] = _measure_lists(lists, relevant[users], share)
    return Evaluation(k, users, models)


def best_items(fitted: Fitted, interactions: Interactions, users: Codes, k: int, *, filters: Filters) -> Codes:
    """The k best items of some users of the interactions, int32 [users, k]; -1 behind the end of a shorter list."""
    return np.concatenate([part.items for part in rank(fitted, fitted.history(interactions)[users], k, filters)])


def _measure_lists(lists: Codes, relevant: "csr_matrix", share: np.ndarray) -> ListMetrics:
    per_user = {
        "ndcg": metrics.ndcg(lists, relevant),
        "recall": metrics.recall(lists, relevant),
        "precision": metrics.precision(lists, relevant),
        "novelty": metrics.novelty(lists, share),
    }
    return ListMetrics(per_user, metrics.coverage(lists, relevant.shape[1]))
