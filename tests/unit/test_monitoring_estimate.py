"""Performance before labels: it follows the realised one under covariate shift, and not under concept drift."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from forecache.models.registry.gate.score_metrics import Array
from forecache.plugins.drift.calibration import Calibration, fit_calibration, fit_calibrations
from forecache.plugins.drift.expected_performance import (
    accuracy,
    estimate_metrics,
    estimated_metrics,
    expected_confusion,
    f1,
)

ROWS = 4_000
WIDEST = {"roc_auc": 0.04, "average_precision": 0.06, "accuracy": 0.03, "f1": 0.05, "brier": 0.02, "log_loss": 0.06}
"""Width that a band of 4,000 rows may have on either side."""
DAYS = 10


def people(rng: np.random.Generator, mean: float, *, slope: float = 1.0, rows: int = ROWS) -> tuple[Array, Array]:
    """Scores and labels of a model that is too sure of itself: the true probability depends on an input alone.

    Args:
        mean: Of the input: to move it is covariate shift.
        slope: Of the true probability: to change it is concept drift.
    """
    x = rng.normal(mean, 1.2, rows)
    truth = 1 / (1 + np.exp(-slope * (x - 0.7)))
    score = 1 / (1 + np.exp(-1.8 * (x - 0.5)))
    return score, (rng.random(rows) < truth).astype(np.float64)


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    score, label = people(np.random.default_rng(1), 0.0, rows=12_000)
    return fit_calibration(label, score)


def test_the_expected_confusion_matrix_is_that_of_the_truth(calibration: Calibration) -> None:
    score, label = people(np.random.default_rng(2), 0.3)
    found = expected_confusion(score, calibration)
    assert sum(found.values()) == pytest.approx(ROWS)
    assert found["true_positive"] == pytest.approx(float(((score >= 0.5) & (label > 0.5)).sum()), rel=0.06)
    assert found["false_negative"] == pytest.approx(float(((score < 0.5) & (label > 0.5)).sum()), rel=0.12)


@pytest.mark.slow
@pytest.mark.parametrize("mean", [-0.8, 0.8])
def test_under_covariate_shift_the_realised_metrics_lie_in_the_band(mean: float) -> None:
    """On at least 8 of 10 days of each metric, each day with a test split of its own; 95 percent are meant."""
    inside: dict[str, list[bool]] = {name: [] for name in estimated_metrics(1)}
    for day in range(DAYS):
        score, label = people(np.random.default_rng(1000 + day), 0.0, rows=12_000)
        calibration = fit_calibration(label, score)
        score, label = people(np.random.default_rng(100 + day), mean)
        for name, found in estimate_metrics(score, [calibration], seed=day).items():
            realised = estimated_metrics(1)[name](label, score)
            inside[name].append(found.low <= realised <= found.high)
            assert found.low < found.value < found.high
            assert max(found.value - found.low, found.high - found.value) < WIDEST[name]
    assert {name: sum(each) for name, each in inside.items() if sum(each) < 8} == {}


def test_the_shift_itself_is_told(calibration: Calibration) -> None:
    """Where inputs move to where the model tells labels apart less well, the estimate says so before any label."""
    calm, _ = people(np.random.default_rng(3), 0.0)
    rng = np.random.default_rng(4)
    narrow = 1 / (1 + np.exp(-1.8 * (rng.normal(0.7, 0.3, ROWS) - 0.5)))
    before, after = (estimate_metrics(score, [calibration]) for score in (calm, narrow))
    assert after["roc_auc"].high < before["roc_auc"].low - 0.1


def test_under_concept_drift_the_realised_metrics_leave_the_band(calibration: Calibration) -> None:
    score, label = people(np.random.default_rng(5), 0.0, slope=-1.0)
    found = estimate_metrics(score, [calibration])["roc_auc"]
    assert roc_auc_score(label, score) < 0.5 < 0.7 < found.low


def test_without_a_calibration_of_its_scores_an_overconfident_model_would_be_overrated(
    calibration: Calibration,
) -> None:
    score, label = people(np.random.default_rng(6), 0.0)
    as_it_is = Calibration("isotonic", (0.0, 1.0), (0.0, 1.0), (10**9, 10**9))
    realised = estimated_metrics(1)["brier"](label, score)
    assert estimate_metrics(score, [as_it_is])["brier"].high < realised
    assert abs(estimate_metrics(score, [calibration])["brier"].value - realised) < 0.01


def test_metrics_are_those_of_scikit_learn() -> None:
    score, label = people(np.random.default_rng(7), 0.0, rows=500)
    metrics = estimated_metrics(1)
    assert f1(label, score) == pytest.approx(f1_score(label, score >= 0.5))
    assert accuracy(label, score) == pytest.approx(np.mean((score >= 0.5) == label))
    assert metrics["average_precision"](label, score) == pytest.approx(average_precision_score(label, score))


def test_few_rows_are_calibrated_by_platt_and_many_by_isotonic_regression() -> None:
    score, label = people(np.random.default_rng(8), 0.0, rows=20_000)
    few, many = fit_calibration(label[:900], score[:900]), fit_calibration(label, score)
    assert (few.method, many.method) == ("platt", "isotonic")
    grid = np.linspace(0.05, 0.95, 19)
    truth = 1 / (1 + np.exp(-(np.log(grid / (1 - grid)) / 1.8 + 0.5 - 0.7)))
    assert np.abs(many.probabilities(grid) - truth).max() < 0.08
    assert np.abs(few.probabilities(grid) - truth).max() < 0.12
    again = Calibration.from_json(many.to_json())
    assert again.probabilities(grid).tolist() == many.probabilities(grid).tolist()


def test_labels_of_one_kind_and_scores_that_are_no_probability_give_no_nonsense() -> None:
    score = np.linspace(0.1, 0.9, 100)
    assert fit_calibration(np.ones(100), score).probabilities(score).tolist() == [1.0] * 100
    found = estimate_metrics(score, [fit_calibration(np.ones(100), score)])
    assert "roc_auc" not in found
    assert found["f1"].value == pytest.approx(f1(np.ones(100), score))
    assert fit_calibrations("binary", np.ones(3), np.array([0.5, 3.0, -1.0])) == []
    assert fit_calibrations("regression", np.ones(3), np.ones(3)) == []


def test_classes_are_estimated_too() -> None:
    def drawn(seed: int, shift: float) -> tuple[Array, Array]:
        rng = np.random.default_rng(seed)
        x = rng.normal(shift, 1.0, (ROWS, 3)) + rng.integers(0, 2, (ROWS, 1))
        truth = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
        sure = np.exp(1.5 * x) / np.exp(1.5 * x).sum(axis=1, keepdims=True)
        return sure, (rng.random((ROWS, 1)) >= np.cumsum(truth, axis=1)[:, :-1]).sum(axis=1).astype(np.float64)

    score, label = drawn(1, 0.0)
    calibrations = [Calibration.from_json(each) for each in fit_calibrations("multiclass", label, score)]
    score, label = drawn(2, 0.2)
    found = estimate_metrics(score, calibrations)
    assert set(found) == set(estimated_metrics(3))
    for name in ("roc_auc", "accuracy", "macro_f1"):
        realised = estimated_metrics(3)[name](label, score)
        assert found[name].value == pytest.approx(realised, abs=0.02)
