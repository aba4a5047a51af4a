"""Metrics of lists against values worked out by hand."""

import math

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.metrics import ndcg_score

from forecache.base.statistics import mean_difference_interval
from forecache.plugins.recommend.evaluation.evaluate import coverage, ndcg, novelty, precision, recall

# Items 0 to 4. User 0 wants 1 (a little) and 3 (much), user 1 wants 0, user 2 wants 0 to 3, user 3 wants nothing.
RELEVANT = csr_matrix(np.array([[0, 1, 0, 3, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 0], [0, 0, 0, 0, 0]], np.float32))
LISTS = np.array([[3, 0, 1], [1, 2, -1], [3, 4, 0], [0, 1, 2]], np.int32)
SECOND, THIRD = 1 / math.log2(3), 0.5


def test_recall_is_the_share_of_relevant_items_found_and_undefined_without_any() -> None:
    np.testing.assert_array_equal(recall(LISTS, RELEVANT), [1.0, 0.0, 0.5, np.nan])


def test_precision_counts_an_empty_place_as_a_miss() -> None:
    np.testing.assert_allclose(precision(LISTS, RELEVANT), [2 / 3, 0, 2 / 3, 0])


def test_ndcg_of_binary_relevance_is_that_of_the_formula() -> None:
    best_of_two, best_of_three = 1 + SECOND, 1 + SECOND + THIRD
    expected = [(1 + THIRD) / best_of_two, 0, (1 + THIRD) / best_of_three, np.nan]
    np.testing.assert_allclose(ndcg(LISTS, RELEVANT), expected)


def test_ndcg_of_graded_relevance_weighs_places_by_gain() -> None:
    linear = (3 + 1 * THIRD) / (3 + 1 * SECOND)
    exponential = (7 + 1 * THIRD) / (7 + 1 * SECOND)
    assert ndcg(LISTS, RELEVANT, gain="linear")[0] == pytest.approx(linear)
    assert ndcg(LISTS, RELEVANT, gain="exponential")[0] == pytest.approx(exponential)


def test_ndcg_equals_scikit_learns_on_whole_rankings() -> None:
    rng = np.random.default_rng(5)
    truth, scores = rng.integers(0, 4, (50, 30)).astype(float), rng.permuted(np.tile(np.arange(30.0), (50, 1)), axis=1)
    lists = np.argsort(-scores, axis=1)[:, :10].astype(np.int32)
    ours = ndcg(lists, csr_matrix(truth), gain="linear")
    assert ours.mean() == pytest.approx(ndcg_score(truth, scores, k=10), abs=1e-12)


def test_a_stored_zero_is_not_relevant() -> None:
    zero = csr_matrix((np.array([0.0, 1.0]), (np.array([0, 0]), np.array([0, 1]))), shape=(1, 2))
    assert recall(np.array([[0]], np.int32), zero).tolist() == [0.0]
    assert ndcg(np.array([[1]], np.int32), zero).tolist() == [1.0]


def test_novelty_is_the_mean_surprise_of_a_list_in_bits() -> None:
    share = np.array([0.5, 0.25, 0.0, 1.0, 0.125])
    found = novelty(np.array([[0, 1], [3, -1], [2, 2], [-1, -1]], np.int32), share)
    np.testing.assert_allclose(found, [1.5, 0.0, 3.0, np.nan])


def test_coverage_is_the_share_of_items_on_any_list() -> None:
    assert coverage(np.array([[0, 1], [1, -1]], np.int32), 5) == 0.4
    assert coverage(np.full((2, 2), -1, np.int32), 5) == 0.0


def test_the_interval_of_a_paired_difference_is_narrower_than_users_differ() -> None:
    rng = np.random.default_rng(1)
    base = rng.random(400)
    better = base + 0.02 + rng.normal(0, 0.01, 400)
    low, high = mean_difference_interval(better, base, seed=3)
    assert 0.015 < low < 0.02 < high < 0.025
    low, high = mean_difference_interval(base, base, seed=3)
    assert (low, high) == (0.0, 0.0)
