"""The section `movielens`, in a process on one core: `python -m _recommend.movielens SEEDS`, JSON out."""

import json
import os
import sys
import time
from typing import Any

import numpy as np

from _recommend.peers import Peer
from _recommend.ratings import example, movielens
from forecache.base.statistics import mean_difference_interval
from forecache.plugins.recommend.evaluation import evaluate as metrics
from forecache.plugins.recommend.evaluation.evaluate import best_items, split_by_user
from forecache.plugins.recommend.filters import Filters
from forecache.plugins.recommend.interactions import Interactions
from forecache.plugins.recommend.models import Als, Ease, Popularity, RecommenderModel, TwoTowers

K, TEST_SHARE, SEEDS = 10, 0.25, (0, 1, 2, 3, 4)

EASE = example().model
# Chosen by `_recommend.choices`, on training sides, as EASE was.
ALS = Als(factors=64, regularization=40.0, alpha=4.0)
TOWERS = TwoTowers(weight_decay=1.0, target_share=0.3)
PEERS = {
    "implicit_als": Peer(
        "als",
        {"factors": ALS.factors, "regularization": ALS.regularization, "iterations": ALS.iterations},
        1 + ALS.alpha,
    ),
    "implicit_bpr": Peer("bpr", {"factors": 64, "learning_rate": 0.01, "iterations": 40}),
    "implicit_bm25": Peer("bm25", {"K": 1000, "K1": 20.0, "B": 0.2}),
}


MODELS: dict[str, RecommenderModel] = {
    "ease": EASE,
    "ease_plain": Ease(l2=300.0),
    "als": ALS,
    "two_towers": TOWERS,
    "popularity": Popularity(),
}


def measure(num_seeds: int) -> dict[str, Any]:
    """nDCG@10, recall@10 and seconds of fitting of every model, for each seed; the gain of EASE over popularity."""
    ratings = movielens()
    found: dict[str, Any] = {name: {"ndcg": [], "recall": [], "fit_s": []} for name in (*MODELS, *PEERS)}
    gains = []
    for seed in SEEDS[:num_seeds]:
        split = split_by_user(ratings, test_share=TEST_SHARE, seed=seed)
        relevant = split.test.matrix()
        users = np.flatnonzero(np.diff(relevant.indptr)).astype(np.int32)
        per_user = {}
        for name in found:
            lists, fit_s = _lists(name, split.train, users, seed=seed)
            per_user[name] = metrics.ndcg(lists, relevant[users])
            found[name]["ndcg"].append(float(per_user[name].mean()))
            found[name]["recall"].append(float(metrics.recall(lists, relevant[users]).mean()))
            found[name]["fit_s"].append(fit_s)
            print(f"seed {seed}, {name}: nDCG@{K} {found[name]['ndcg'][-1]:.4f}, {fit_s:.2f} s", file=sys.stderr)
        gains.append(mean_difference_interval(per_user["ease"], per_user["popularity"], seed=seed))
    sizes = {"ratings": len(ratings), "users": ratings.num_users, "items": ratings.num_items}
    return {**sizes, "models": found, "gains": gains}


def _lists(name: str, train: Interactions, users: np.ndarray, *, seed: int) -> tuple[np.ndarray, float]:
    if name in PEERS:
        return lists_of_peer(PEERS[name], train, users, seed=seed)
    return lists_of_ours(MODELS[name], train, users, seed=seed)


def lists_of_ours(
    model: RecommenderModel, train: Interactions, users: np.ndarray, *, seed: int
) -> tuple[np.ndarray, float]:
    """Lists, int32 [users, k], and the seconds that fitting took."""
    started = time.perf_counter()
    fitted = model.fit(train, seed=seed)
    fit_s = time.perf_counter() - started
    return best_items(fitted, train, users, K, filters=Filters(seen=train.matrix()[users])), fit_s


def lists_of_peer(peer: Peer, train: Interactions, users: np.ndarray, *, seed: int) -> tuple[np.ndarray, float]:
    seen = train.matrix()
    started = time.perf_counter()
    fitted = peer.fit(seen, seed=seed)
    fit_s = time.perf_counter() - started
    return peer.lists(fitted, seen, users, K), fit_s


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(json.dumps(measure(int(sys.argv[1]))))


if __name__ == "__main__":
    main()
