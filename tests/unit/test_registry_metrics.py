"""Metrics against scikit-learn and scipy, and what they say where they are not defined."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from forecache.pipeline.policies import METRICS
from forecache.registry.gate import metrics as ours
from forecache.registry.gate.bootstrap import gain_interval, metric_interval, weighted_metric

RNG = np.random.default_rng(3)
LABEL = (RNG.random(500) < 0.3).astype(float)
SCORE = np.clip(np.round(0.3 + 0.3 * LABEL + RNG.normal(0, 0.25, 500), 2), 0, 1)  # rounded, so that scores tie
TARGET = RNG.exponential(20, 500)
PREDICTION = TARGET + RNG.normal(0, 5, 500)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("roc_auc", sk.roc_auc_score),
        ("average_precision", sk.average_precision_score),
        ("brier", sk.brier_score_loss),
    ],
)
def test_binary_metrics_equal_scikit_learns_with_ties(name: str, reference: object) -> None:
    assert getattr(ours, name)(LABEL, SCORE) == pytest.approx(reference(LABEL, SCORE), abs=1e-12)  # type: ignore[operator]


def test_log_loss_equals_scikit_learns_and_survives_certainty() -> None:
    inner = np.clip(SCORE, 0.01, 0.99)
    assert ours.log_loss(LABEL, inner) == pytest.approx(sk.log_loss(LABEL, inner))
    assert math.isfinite(ours.log_loss(np.array([1.0]), np.array([0.0])))


def test_regression_metrics_equal_their_references() -> None:
    from scipy.stats import spearmanr

    assert ours.mae(TARGET, PREDICTION) == pytest.approx(sk.mean_absolute_error(TARGET, PREDICTION))
    assert ours.rmse(TARGET, PREDICTION) == pytest.approx(sk.root_mean_squared_error(TARGET, PREDICTION))
    assert ours.r2(TARGET, PREDICTION) == pytest.approx(sk.r2_score(TARGET, PREDICTION))
    assert ours.spearman(TARGET, PREDICTION) == pytest.approx(spearmanr(TARGET, PREDICTION).statistic)


def test_ece_is_zero_for_a_calibrated_constant_and_large_for_a_wrong_one() -> None:
    label = np.array([1.0, 0.0] * 50)
    assert ours.ece(label, np.full(100, 0.5), bins=1) == 0
    assert ours.ece(label, np.full(100, 0.9), bins=1) == pytest.approx(0.4)


def test_ranking_metrics_are_not_a_number_with_one_class_only() -> None:
    assert math.isnan(ours.roc_auc(np.ones(3), np.arange(3.0)))
    assert math.isnan(ours.average_precision(np.zeros(3), np.arange(3.0)))


def test_a_declaration_may_name_every_metric_there_is() -> None:
    assert {"binary": tuple(ours.BINARY), "regression": tuple(ours.REGRESSION)} == METRICS


@pytest.mark.parametrize(("metric", "expected"), [("roc_auc", 0.1), ("mae", -0.1)])
def test_gain_is_positive_where_the_value_is_better(metric: str, expected: float) -> None:
    assert ours.gain(metric, 0.8, 0.7) == pytest.approx(expected)


@given(
    st.lists(st.integers(0, 3), min_size=500, max_size=500), st.sampled_from(["roc_auc", "brier", "log_loss", "rmse"])
)
def test_weighted_metric_equals_the_metric_of_repeated_rows(weights: list[int], metric: str) -> None:
    rows = np.repeat(np.arange(500), weights)
    if len(set(LABEL[rows])) < 2:
        return
    function = {**ours.BINARY, **ours.REGRESSION}[metric]
    expected = function(LABEL[rows], SCORE[rows])
    assert weighted_metric(metric, LABEL, SCORE)(np.array(weights, float)) == pytest.approx(expected)


def test_gain_interval_covers_zero_for_equal_scores_and_not_for_a_clear_gain() -> None:
    noise = RNG.random(500)
    low, high = gain_interval("roc_auc", LABEL, SCORE, noise, seed=1)
    assert 0 < low < high
    assert gain_interval("roc_auc", LABEL, SCORE, SCORE, seed=1) == (0.0, 0.0)
    assert gain_interval("average_precision", LABEL, SCORE, noise, seed=1)[0] > 0


def test_gain_interval_is_repeatable() -> None:
    noise = RNG.random(500)
    first = gain_interval("brier", LABEL, SCORE, noise, seed=5)
    assert first == gain_interval("brier", LABEL, SCORE, noise, seed=5)


@pytest.mark.parametrize(("metric", "label", "score"), [("roc_auc", LABEL, SCORE), ("mae", TARGET, PREDICTION)])
def test_interval_of_a_metric_holds_its_value_and_narrows_with_more_rows(
    metric: str, label: object, score: object
) -> None:
    value = getattr(ours, metric)(label, score)
    low, high = metric_interval(metric, label, score, seed=1)  # type: ignore[arg-type]
    assert low < value < high
    more = metric_interval(metric, np.tile(label, 9), np.tile(score, 9), seed=1)  # type: ignore[arg-type]
    assert more[1] - more[0] < (high - low) / 2
    assert metric_interval(metric, label, score, seed=1) == (low, high)  # type: ignore[arg-type]
