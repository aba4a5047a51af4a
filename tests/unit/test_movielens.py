"""The example on MovieLens 100k: a pipeline file of at most 60 lines ranks as well as asked."""

import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from _recommend import ratings
from _recommend.movielens import TEST_SHARE, K, lists_of_ours

from forecache.plugins.recommend.evaluation import evaluate as metrics
from forecache.plugins.recommend.evaluation.evaluate import split_by_user

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_model_of_the_example_reaches_an_ndcg_of_48_percent_in_seconds() -> None:
    subprocess.run(["bash", str(ROOT / "benchmarks" / "peers_env.sh"), "movielens"], check=True)
    films = ratings.example()
    split = split_by_user(ratings.movielens(), test_share=TEST_SHARE, seed=0)
    relevant = split.test.matrix()
    users = np.flatnonzero(np.diff(relevant.indptr)).astype(np.int32)
    began = time.process_time()
    lists, _ = lists_of_ours(films.model, split.train, users, seed=films.seed)
    cpu_s = time.process_time() - began
    assert float(metrics.ndcg(lists, relevant[users]).mean()) >= 0.48
    assert lists.shape == (len(users), K)
    assert cpu_s < 30, "of processor time, so that other work on the machine counts little; five by itself"


def test_the_example_is_one_file_of_at_most_sixty_lines() -> None:
    file = ROOT / "examples" / "movielens" / "movielens" / "pipelines" / "films.py"
    assert len(file.read_text().splitlines()) <= 60
