"""Gate of a recommender: compares its lists on the last days, which it is not trained on, with two simple models."""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from forecache.base.errors import CheckError, InputError
from forecache.base.hashes import row_hashes
from forecache.base.statistics import mean_difference_interval
from forecache.plugins.recommend.evaluation import evaluate as metrics
from forecache.plugins.recommend.evaluation.evaluate import TrainTestSplit, best_items, split_by_day
from forecache.plugins.recommend.filters import Availability
from forecache.plugins.recommend.interactions import Interactions
from forecache.plugins.recommend.lists import excluded_items, filters_of
from forecache.plugins.recommend.models import Popularity, RepeatPurchase
from forecache.plugins.recommend.recommender import Recommender

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_METRICS = {"ndcg": metrics.ndcg, "recall": metrics.recall, "precision": metrics.precision}


def judge(
    recommender: Recommender,
    interactions: Interactions,
    night: date,
    groups: Mapping[Any, Any] | None = None,
    available: Availability | None = None,
) -> dict[str, Any]:
    """Fit the model and both baselines without the last days, and compare their lists for users active in and before.

    Items that the declaration excludes from a list do not count as relevant. Returned are `metric`, `users`, `figures`
    (means by model), `against` (the better baseline), and `difference` with its 95% bootstrap interval, `low` and
    `high`.
    """
    gate = recommender.gate
    first = first_test_day(recommender, night)
    if not len(interactions.select_before(first)):
        raise InputError(
            f"{recommender.name} cannot be judged for {night}: there are no interactions before {first}, and the "
            f"{gate.test_days} days from then on are the gate's test.",
            remedy="Begin with a later date, or declare a shorter test_days in the gate.",
        )
    split = split_by_day(interactions, first, num_days=gate.test_days)
    users = _judged_users(split, gate.most_users)
    relevant = _relevant_items(recommender, split, users, first, available)
    wanted = np.diff(relevant.indptr) > 0
    if not wanted.any():
        raise InputError(
            f"Nobody with a history chose an item in the {gate.test_days} days up to {night} that could be on a list.",
            remedy="Declare another test_days in the gate, or run again once there are more days.",
        )
    users, relevant = users[wanted], relevant[wanted]
    models = {"model": recommender.model, "popularity": Popularity(), "repeat_purchase": RepeatPurchase()}
    values = {}
    for name, model in models.items():
        fitted = model.fit(split.train, seed=recommender.seed)
        filters = filters_of(recommender, fitted, split.train, first - timedelta(days=1), groups, available)
        lists = best_items(fitted, split.train, users, gate.at, filters=filters.select_users(users))
        values[name] = _METRICS[gate.metric](lists, relevant)
    means = {name: float(each.mean()) for name, each in values.items()}
    against = max(("popularity", "repeat_purchase"), key=lambda name: means[name])
    low, high = mean_difference_interval(values["model"], values[against], seed=recommender.seed)
    found = {
        "metric": f"{gate.metric}@{gate.at}",
        "users": len(users),
        "figures": {name: round(mean, 4) for name, mean in means.items()},
        "against": against,
        "difference": round(means["model"] - means[against], 4),
        "low": round(low, 4),
        "high": round(high, 4),
    }
    _refuse(recommender, night, found, mean=means["model"], low=low)
    return found


def first_test_day(recommender: Recommender, night: date) -> date:
    return night - timedelta(days=recommender.gate.test_days - 1)


def _judged_users(split: TrainTestSplit, most: int) -> np.ndarray:
    """Users with interactions in the test and before, ascending; if too many, those with the smallest hashes."""
    users = np.intersect1d(split.test.users, split.train.users)
    if len(users) <= most:
        return users
    hashes = row_hashes([split.test.user_keys.take(users)])
    return np.asarray(np.sort(users[np.argsort(hashes, kind="stable")[:most]]))


def _relevant_items(
    recommender: Recommender, split: TrainTestSplit, users: np.ndarray, first: date, available: Availability | None
) -> "csr_matrix":
    """Items that each user took in the test and that could be on a list then; CSR [users, items], above 0."""
    relevant = split.test.matrix()[users]
    seen = excluded_items(recommender, split.train, first - timedelta(days=1))
    if seen is not None:
        kept_off = seen[users]
        kept_off.data[:] = 1  # an item counts as taken with any weight
        relevant = relevant - relevant.multiply(kept_off)
    if available is not None:
        chosen = relevant.tocoo()
        filters = available.filters(split.train.item_keys, split.train.user_keys)
        chosen.data[~filters.allows(users[chosen.row], chosen.col)] = 0
        relevant = chosen
    relevant = relevant.tocsr()
    relevant.eliminate_zeros()
    return relevant


def _refuse(recommender: Recommender, night: date, found: Mapping[str, Any], *, mean: float, low: float) -> None:
    """Raise if figures, which `found` has rounded, miss what is declared."""
    gate, figures = recommender.gate, found["figures"]
    about = f"The model of {recommender.name} has {found['metric']} {figures['model']:.4f} on {found['users']:,} users"
    remedy = f"Nothing was written for {night}; the lists before stay. Try another model, or change the gate."
    if mean < gate.floor:
        raise CheckError(f"{about}; at least {gate.floor:g} is wanted.", remedy=remedy)
    if gate.margin is not None and low <= gate.margin:
        rule = found["against"].replace("_", " ")
        raise CheckError(
            f"{about}, {found['difference']:+.4f} against {rule} ({found['low']:+.4f} to {found['high']:+.4f}); surely "
            f"more than {gate.margin:+g} is wanted.",
            remedy=remedy,
        )
