"""How the parameters of `movielens.py` were chosen: `python -m _recommend.choices` in benchmarks/, half an hour.

Every model is tried on the training sides of three seeds only, each split once more. It is not as strict as it sounds:
a rating that one seed trains on may be in the test of another, and which of EASE's options are tried at all was
found on other random splits of the same ratings. Printed are the best of each model by mean nDCG@10.
"""

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from _recommend.movielens import SEEDS, TEST_SHARE, K, lists_of_peer
from _recommend.peers import Peer
from _recommend.ratings import movielens
from forecache.plugins.recommend.evaluation.evaluate import MODEL, TrainTestSplit, evaluate, ndcg, split_by_user
from forecache.plugins.recommend.models import Als, Ease, RecommenderModel, TwoTowers

_INNER_SEED = 1000


def grid(**values: list[Any]) -> Iterator[dict[str, Any]]:
    for each in itertools.product(*values.values()):
        yield dict(zip(values, each, strict=True))


CANDIDATES: dict[str, list[RecommenderModel | Peer]] = {
    "ease": [
        Ease(**each)
        for each in grid(
            l2=[200.0, 300.0, 400.0],
            dropout=[0.0, 0.5, 0.7, 0.8, 0.9],
            weight_power=[0.0, 0.5],
            activity_power=[0.0, 0.2, 0.3, 0.4],
        )
    ],
    "als": [
        Als(**each)
        for each in grid(factors=[16, 32, 64], regularization=[10.0, 20.0, 40.0, 80.0], alpha=[2.0, 4.0, 8.0])
    ],
    "two_towers": [
        TwoTowers(**each) for each in grid(target_share=[0.1, 0.2, 0.3], weight_decay=[0.3, 1.0], learning_rate=[0.003])
    ],
    "implicit_bpr": [
        Peer("bpr", each)
        for each in grid(
            factors=[32, 64, 128], learning_rate=[0.005, 0.01], regularization=[0.01], iterations=[20, 30, 40, 60]
        )
    ],
    "implicit_bm25": [
        Peer("bm25", each) for each in grid(K=[50, 200, 1000, 1682], K1=[0.5, 1.2, 5.0, 20.0, 100.0], B=[0.2, 0.8])
    ],
}


def nested(seed: int) -> TrainTestSplit:
    train = split_by_user(movielens(), test_share=TEST_SHARE, seed=seed).train
    return split_by_user(train, test_share=TEST_SHARE, seed=_INNER_SEED + seed)


def figure(model: RecommenderModel | Peer, split: TrainTestSplit) -> float:
    """Mean nDCG@10 over the users of the inner test side."""
    if isinstance(model, Peer):
        relevant: csr_matrix = split.test.matrix()
        users = np.flatnonzero(np.diff(relevant.indptr))
        return float(ndcg(lists_of_peer(model, split.train, users, seed=0)[0], relevant[users]).mean())
    fitted = model.fit(split.train, seed=0)
    return evaluate({MODEL: fitted}, split, k=K, exclude_seen=True).models[MODEL].mean("ndcg")


def main() -> None:
    splits = [nested(seed) for seed in SEEDS[:3]]
    for name in sys.argv[1:] or CANDIDATES:
        found = [(np.mean([figure(model, split) for split in splits]), model) for model in CANDIDATES[name]]
        found.sort(key=lambda each: -each[0])
        for value, model in found[:5]:
            print(f"{value:.4f}  {model}", flush=True)


if __name__ == "__main__":
    main()
