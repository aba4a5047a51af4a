"""Figures of a model's report, against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn import metrics as sk

from forecache.plugins.model_reports.curves import (
    best_threshold,
    confusion,
    cumulative_gain,
    lift_by_tenth,
    precision_recall_curve,
    residual_counts,
)
from forecache.plugins.model_reports.plots import draw_evaluation

RNG = np.random.default_rng(5)
LABEL = (RNG.random(1000) < 0.3).astype(float)
SCORE = np.round(0.3 * LABEL + RNG.random(1000), 2)  # rounded, so that scores tie


def test_points_of_precision_and_recall_are_scikit_learns() -> None:
    precision, recall, _ = sk.precision_recall_curve(LABEL, SCORE)
    known = {(round(float(r), 5), round(float(p), 5)) for r, p in zip(recall, precision, strict=True)}
    found = precision_recall_curve(LABEL, SCORE)
    assert set(zip(found["recall"], found["precision"], strict=True)) <= known
    assert found["recall"][-1] == 1
    assert precision_recall_curve(np.zeros(10), np.arange(10.0)) == {}


def test_cumulative_gain_of_the_best_order_is_all_after_the_positive_rows() -> None:
    label = np.array([1.0] * 20 + [0.0] * 80)
    assert cumulative_gain(label, label)[:21:10] == [0, 0.5, 1]
    assert cumulative_gain(label, np.zeros(100))[25] == 0.25  # equal scores: a random order
    assert cumulative_gain(-label, label) == []


def test_lift_of_each_tenth_is_its_mean_label_over_that_of_all() -> None:
    label = np.arange(100.0)
    rows = lift_by_tenth(label, 2 * label)
    assert rows[0] == {"label": 94.5, "score": 189.0, "lift": 94.5 / 49.5}
    assert np.mean([row["lift"] for row in rows]) == pytest.approx(1)
    assert lift_by_tenth(np.zeros(10), label[:10]) == []


def test_residuals_are_counted_between_their_ends_with_mean_and_median() -> None:
    label = np.zeros(1000)
    found = residual_counts(label, np.append(np.full(999, 2.0), 1002.0))
    assert (found["mean"], found["median"], sum(found["counts"])) == (3.0, 2.0, 999)


def test_the_threshold_with_the_best_f1_and_its_decisions_are_scikit_learns() -> None:
    threshold = best_threshold(LABEL, SCORE)
    found = confusion(LABEL, SCORE, threshold)
    by_threshold = [sk.f1_score(LABEL, each <= SCORE) for each in np.unique(SCORE)]
    assert found["f1"] == pytest.approx(max(by_threshold))
    negative, false, missed, true = sk.confusion_matrix(LABEL, threshold <= SCORE).ravel().tolist()
    names = ("true_negatives", "false_positives", "false_negatives", "true_positives")
    assert [found[name] for name in names] == [negative, false, missed, true]
    assert found["precision"] == pytest.approx(sk.precision_score(LABEL, threshold <= SCORE))
    assert confusion(LABEL, SCORE, 9.0)["precision"] is None


def test_a_model_that_was_registered_with_fewer_figures_is_drawn_with_those_it_has() -> None:
    importance = [{"feature": "age", "loss": 0.2, "std": 0.01}]
    evaluation = {"importance": importance, "history": [], "kind": "regression", "metric": "mae", "lift": []}
    assert set(draw_evaluation(evaluation)) == {"importance"}
    rows = [{**importance[0], "direction": -0.5}]
    assert "age −0.50" in draw_evaluation({**evaluation, "importance": rows})["importance"].replace("-", "−")
