"""Metrics against scikit-learn and scipy, and what they say where they are not defined."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from outputs_project.pipelines import kinds
from ranked_project.pipelines.offers import offers
from sklearn import metrics as sk

from forecache.base.errors import InputError
from forecache.declare import Gate, Metric
from forecache.declare.models.gate import METRICS
from forecache.models.registry.gate import score_metrics as ours
from forecache.models.registry.gate.gate_checks import gain_interval, metric_interval, weighted_metric
from forecache.models.registry.gate.metric_judge import MetricJudge, judge_of
from forecache.models.registry.gate.score_metrics import MULTICLASS, QUANTILES, map_classes

RNG = np.random.default_rng(3)
LABEL = (RNG.random(500) < 0.3).astype(float)
SCORE = np.clip(np.round(0.3 + 0.3 * LABEL + RNG.normal(0, 0.25, 500), 2), 0, 1)  # rounded, so that scores tie
TARGET = RNG.exponential(20, 500)
PREDICTION = TARGET + RNG.normal(0, 5, 500)
JUDGE = MetricJudge("binary", {**ours.BINARY, **ours.REGRESSION}, ours.LESS_IS_BETTER)


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


def test_infinite_scores_tie() -> None:
    label, finite = np.array([1.0, 0, 0, 1, 0, 1, 0]), np.array([9.0, 9, 9, 5, 1, 1, 1])
    infinite = np.array([np.inf] * 3 + [5.0] + [-np.inf] * 3)
    for weight in (None, np.arange(1.0, 8.0)):
        for metric in (ours.roc_auc, ours.average_precision):
            assert metric(label, infinite, weight) == metric(label, finite, weight)


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


def test_the_gini_coefficient_of_a_binary_label_follows_from_the_area_under_the_curve() -> None:
    assert ours.gini(LABEL, SCORE) == pytest.approx(2 * sk.roc_auc_score(LABEL, SCORE) - 1)
    assert ours.gini(TARGET, TARGET) == pytest.approx(1)
    assert ours.gini(TARGET, -TARGET) == pytest.approx(-1)
    assert ours.gini(TARGET, np.full(500, 3.0)) == pytest.approx(0)
    assert ours.gini(TARGET, 10 * PREDICTION - 4) == pytest.approx(ours.gini(TARGET, PREDICTION))


def test_the_top_decile_is_the_share_of_the_highest_scores_and_ties_at_its_border_count_in_part() -> None:
    best = np.argsort(-PREDICTION)[:50]
    assert ours.top_decile(TARGET, PREDICTION) == pytest.approx(TARGET[best].sum() / TARGET.sum())
    assert ours.top_decile(TARGET, np.full(500, 3.0)) == pytest.approx(0.1)
    label, score = np.array([8.0, 6.0, 2.0, *[0.0] * 17]), np.array([3.0, 2.0, 2.0, *[1.0] * 17])
    assert ours.top_decile(label, score) == pytest.approx((8 + (6 + 2) / 2) / 16)


def test_metrics_of_the_order_are_not_a_number_without_an_order_to_find() -> None:
    nothing = np.zeros(500)
    assert math.isnan(ours.gini(nothing, PREDICTION))
    assert math.isnan(ours.gini(np.ones(500), PREDICTION))
    assert math.isnan(ours.top_decile(nothing, PREDICTION))
    assert math.isnan(ours.spearman(TARGET, np.full(500, 0.1)))


def test_ece_is_zero_for_a_calibrated_constant_and_large_for_a_wrong_one() -> None:
    label = np.array([1.0, 0.0] * 50)
    assert ours.ece(label, np.full(100, 0.5), bins=1) == 0
    assert ours.ece(label, np.full(100, 0.9), bins=1) == pytest.approx(0.4)


def test_ranking_metrics_are_not_a_number_with_one_class_only() -> None:
    assert math.isnan(ours.roc_auc(np.ones(3), np.arange(3.0)))
    assert math.isnan(ours.average_precision(np.zeros(3), np.arange(3.0)))


def test_a_declaration_may_name_every_metric_there_is() -> None:
    found = {"binary": ours.BINARY, "regression": ours.REGRESSION, "multiclass": MULTICLASS, "quantiles": QUANTILES}
    ranking = judge_of(offers, np.array([2])).metrics
    assert {task: tuple(metrics) for task, metrics in {**found, "ranking": ranking}.items()} == METRICS


@pytest.mark.parametrize(("metric", "expected"), [("roc_auc", 0.1), ("mae", -0.1)])
def test_gain_is_positive_where_the_value_is_better(metric: str, expected: float) -> None:
    assert JUDGE.gain(metric, 0.8, 0.7) == pytest.approx(expected)


@given(
    st.lists(st.integers(0, 3), min_size=500, max_size=500),
    st.sampled_from(["roc_auc", "brier", "log_loss", "rmse", "gini", "top_decile"]),
)
def test_weighted_metric_equals_the_metric_of_repeated_rows(weights: list[int], metric: str) -> None:
    rows = np.repeat(np.arange(500), weights)
    if len(set(LABEL[rows])) < 2:
        return
    function = {**ours.BINARY, **ours.REGRESSION}[metric]
    expected = function(LABEL[rows], SCORE[rows])
    assert weighted_metric(JUDGE, metric, LABEL, SCORE)(np.array(weights, float)) == pytest.approx(expected)


def test_gain_interval_covers_zero_for_equal_scores_and_not_for_a_clear_gain() -> None:
    noise = RNG.random(500)
    low, high = gain_interval(JUDGE, "roc_auc", LABEL, SCORE, noise, seed=1)
    assert 0 < low < high
    assert gain_interval(JUDGE, "roc_auc", LABEL, SCORE, SCORE, seed=1) == (0.0, 0.0)
    assert gain_interval(JUDGE, "average_precision", LABEL, SCORE, noise, seed=1)[0] > 0


def test_gain_interval_is_repeatable() -> None:
    noise = RNG.random(500)
    first = gain_interval(JUDGE, "brier", LABEL, SCORE, noise, seed=5)
    assert first == gain_interval(JUDGE, "brier", LABEL, SCORE, noise, seed=5)


@pytest.mark.parametrize(("metric", "label", "score"), [("roc_auc", LABEL, SCORE), ("mae", TARGET, PREDICTION)])
def test_interval_of_a_metric_holds_its_value_and_narrows_with_more_rows(
    metric: str, label: object, score: object
) -> None:
    value = getattr(ours, metric)(label, score)
    low, high = metric_interval(JUDGE, metric, label, score, seed=1)  # type: ignore[arg-type]
    assert low < value < high
    more = metric_interval(JUDGE, metric, np.tile(label, 9), np.tile(score, 9), seed=1)  # type: ignore[arg-type]
    assert more[1] - more[0] < (high - low) / 2
    assert metric_interval(JUDGE, metric, label, score, seed=1) == (low, high)  # type: ignore[arg-type]


WEIGHT = RNG.integers(1, 4, 500).astype(float)
SHARES = RNG.dirichlet(np.ones(5), 500)
CLASS = RNG.integers(0, 5, 500).astype(float)
LEVELS = (0.1, 0.5, 0.9)
BANDS = PREDICTION[:, None] + np.array([-6.0, 0.0, 6.0])


@pytest.mark.parametrize("name", [*ours.BINARY, *ours.REGRESSION])
def test_a_row_of_weight_three_counts_as_three_rows(name: str) -> None:
    metric, rows = JUDGE.metrics[name], np.repeat(np.arange(500), WEIGHT.astype(int))
    label, score = (LABEL, SCORE) if name in ours.BINARY else (TARGET, PREDICTION)
    if name in ("ece", "spearman"):  # bins of equal numbers of rows, and ranks, know no weights
        assert metric(label, score, np.ones(500)) == pytest.approx(metric(label, score))
        return
    assert metric(label, score, WEIGHT) == pytest.approx(metric(label[rows], score[rows]))


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("log_loss", lambda c, s, w: sk.log_loss(c, s, sample_weight=w, labels=range(5))),
        ("accuracy", lambda c, s, w: sk.accuracy_score(c, s.argmax(axis=1), sample_weight=w)),
        ("macro_f1", lambda c, s, w: sk.f1_score(c, s.argmax(axis=1), average="macro", sample_weight=w)),
        ("top_3_accuracy", lambda c, s, w: sk.top_k_accuracy_score(c, s, k=3, sample_weight=w)),
        ("roc_auc", lambda c, s, w: sk.roc_auc_score(c, s, multi_class="ovr", average="macro", sample_weight=w)),
    ],
)
def test_metrics_of_classes_equal_scikit_learns_with_and_without_weights(name: str, reference: Any) -> None:
    for weight in (None, WEIGHT):
        assert MULTICLASS[name](CLASS, SHARES, weight) == pytest.approx(reference(CLASS, SHARES, weight))


def test_metrics_of_quantiles_equal_their_references() -> None:
    for weight in (None, WEIGHT):
        expected = np.mean([
            sk.mean_pinball_loss(TARGET, BANDS[:, i], alpha=level, sample_weight=weight)
            for i, level in enumerate(LEVELS)
        ])  # fmt: skip
        assert QUANTILES["pinball_loss"](LEVELS, TARGET, BANDS, weight) == pytest.approx(expected)
    inside = np.array([(BANDS[:, i] >= TARGET).mean() for i in range(3)])
    assert QUANTILES["coverage_error"](LEVELS, TARGET, BANDS) == pytest.approx(abs(inside - LEVELS).mean())
    assert QUANTILES["interval_width"](LEVELS, TARGET, BANDS) == pytest.approx(12.0)


def test_the_interval_of_an_area_of_several_classes_is_that_of_repeated_rows() -> None:
    judge = MetricJudge("multiclass", MULTICLASS, ours.LESS_IS_BETTER)
    times = RNG.integers(0, 3, 500).astype(float)
    rows = np.repeat(np.arange(500), times.astype(int))
    for name, metric in MULTICLASS.items():
        assert weighted_metric(judge, name, CLASS, SHARES)(times) == pytest.approx(metric(CLASS[rows], SHARES[rows]))


def test_the_best_three_of_three_classes_are_not_reported() -> None:
    judge = MetricJudge("multiclass", MULTICLASS, ours.LESS_IS_BETTER)
    assert "top_3_accuracy" in judge.measure(CLASS, SHARES)
    assert "top_3_accuracy" not in judge.measure(CLASS % 3, RNG.dirichlet(np.ones(3), 500))


def test_the_best_three_are_told_where_a_floor_asks_for_them() -> None:
    judge = judge_of(replace(kinds.plan, gate=replace(kinds.plan.trained_gate, floors={"top_3_accuracy": 0.9})))
    assert judge.measure(CLASS % 3, RNG.dirichlet(np.ones(3), 500))["top_3_accuracy"] == 1.0


def test_a_metric_of_one_s_own_is_judged_in_its_direction_and_its_failure_named() -> None:
    wrong = Metric("wrong", lambda label, prediction, weight: prediction.nothing)
    error = Metric("error", lambda label, prediction, weight: float(weight.sum()), greater_is_better=False)
    judge = judge_of(replace(kinds.plan, gate=Gate("error", {}, metrics=(wrong, error))))
    assert judge.gain("error", 1.0, 3.0) == 2.0
    assert judge.metrics["error"](CLASS, SHARES) == 500.0
    assert judge.metrics["error"](CLASS, SHARES, WEIGHT) == WEIGHT.sum()
    with pytest.raises(InputError, match="The metric 'wrong' failed: AttributeError"):
        judge.metrics["wrong"](CLASS, SHARES)


def test_a_champion_that_knows_other_classes_is_compared_on_the_same_ones() -> None:
    shares = map_classes(np.array([[0.2, 0.8]]), ("b", "gone"), ("a", "b"))
    assert shares.tolist() == [[0.0, 0.2]]
