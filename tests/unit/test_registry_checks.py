"""Each check of the gate says no where it should, and says why."""

import time
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from sample_project.pipelines.visits import basket, returns

from forecache.declare import Metric, Pipeline
from forecache.models.inference.encoding import encoding_of
from forecache.models.registry.gate import gate_checks as checks
from forecache.models.registry.gate.examples import CandidateModel, SplitExamples, slices
from forecache.models.registry.gate.metric_judge import BaselineScores
from forecache.models.registry.gate.score_metrics import Array

RNG = np.random.default_rng(11)
ROWS = 4000
FEATURES = RNG.normal(size=(ROWS, 5)).astype(np.float32)
LABEL = (RNG.random(ROWS) < 1 / (1 + np.exp(-2 * FEATURES[:, 2]))).astype(float)
GOOD = FEATURES[:, 2].astype(float)
POOR = GOOD + RNG.normal(0, 3, ROWS)
EXAMPLES = SplitExamples(FEATURES, LABEL, (), encoding_of(returns.feature_columns, {}))


def test_floor_of_a_metric_where_less_is_better_is_an_upper_bound() -> None:
    floors = {"roc_auc": 0.8, "ece": 0.05}
    over, calibrated = checks.check_floors(floors, {"roc_auc": 0.79, "ece": 0.04})
    assert not over.passed
    assert over.reason == "roc_auc 0.7900, at least 0.8 wanted"
    assert calibrated.passed
    assert not list(checks.check_floors(floors, {"roc_auc": 0.79, "ece": 0.06}))[1].passed


def test_floor_fails_on_a_metric_that_is_not_a_number() -> None:
    assert not next(checks.check_floors({"roc_auc": 0.6}, {"roc_auc": float("nan")})).passed


def test_calibration_is_held_to_its_limit_where_there_is_one() -> None:
    honest, doubled = np.full(ROWS, LABEL.mean()), np.full(ROWS, 2 * LABEL.mean())
    limited = replace(returns, gate=replace(returns.gate, max_ece=0.05))
    assert next(checks.check_calibration(limited, LABEL, honest)).result == "passed"
    failed = next(checks.check_calibration(limited, LABEL, doubled))
    assert failed.result == "failed"
    assert failed.value == pytest.approx(LABEL.mean())
    assert failed.reason.endswith("at most 0.05 wanted")


def test_a_check_without_a_limit_is_reported_and_a_regression_has_no_calibration_unless_asked_for() -> None:
    doubled = np.full(ROWS, 2 * LABEL.mean())
    assert next(checks.check_calibration(returns, LABEL, doubled)).result == "reported"
    assert checks.check_shift(returns, GOOD + 2, GOOD).result == "reported"
    assert not list(checks.check_calibration(basket, LABEL, doubled))
    limited = replace(basket, gate=replace(basket.gate, max_ece=0.05))
    assert next(checks.check_calibration(limited, LABEL, doubled)).result == "failed"


def test_a_baseline_that_is_better_by_other_metrics_is_a_warning() -> None:
    metrics, baseline = {"mae": 2.0, "rmse": 5.0, "r2": 0.27}, {"mae": 3.0, "rmse": 4.0, "r2": 0.42}
    spent = BaselineScores("spent", GOOD, baseline)
    [found] = checks.compare_other_metrics(basket, metrics, [spent])
    assert (found.result, found.passed, found.value) == ("warning", True, None)
    assert "alone is better by rmse (5.0000 against 4.0000), r2 (0.2700 against 0.4200)" in found.reason
    assert found.reason.endswith("the gate judges by mae")
    assert not list(checks.compare_other_metrics(basket, {"mae": 2.0, "rmse": 3.0, "r2": 0.5}, [spent]))


def test_a_baseline_that_is_better_by_a_metric_that_counts_fails_the_model_and_others_are_reported() -> None:
    counting = replace(basket, gate=replace(basket.gate, not_worse_than_baseline=("r2",)))
    metrics, low, high = {"mae": 2.0, "rmse": 5.0, "r2": 0.27}, {"mae": 3.0, "rmse": 4.0, "r2": 0.2}, {"r2": 0.42}
    several = [BaselineScores("low", GOOD, low), BaselineScores("high", GOOD, high)]
    failed, others = checks.compare_other_metrics(counting, metrics, several)
    assert (failed.name, failed.result, failed.value) == ("not_worse:r2", "failed", pytest.approx(-0.15))
    assert failed.reason == "r2 0.2700, 0.4200 of high alone wanted"
    assert others.result == "reported"
    assert others.reason.endswith("by rmse (5.0000 against 4.0000); the gate judges by mae, r2")
    assert next(checks.compare_other_metrics(counting, metrics, several[:1])).passed


SPENT = np.where(RNG.random(ROWS) < 0.86, 0.0, RNG.exponential(60, ROWS))
CONSTANTS = {"8.4, the mean": 8.4, "0, the median": 0.0}


def test_a_model_that_is_not_better_than_the_best_constant_fails() -> None:
    examples = replace(EXAMPLES, label=SPENT, constants=CONSTANTS)
    [check] = checks.check_constants(basket, examples, SPENT + 9)
    assert not check.passed
    assert check.value == pytest.approx(SPENT.mean() - 9)
    assert f"worse than always 0, the median of the training split, with {SPENT.mean():.4f}" in check.reason
    assert next(checks.check_constants(basket, examples, SPENT + 0.5)).passed
    assert not next(checks.check_constants(basket, examples, np.zeros(ROWS))).passed  # equal to it
    lenient, strict = (replace(basket, gate=replace(basket.gate, baseline_margin=margin)) for margin in (-3.0, -0.1))
    assert next(checks.check_constants(lenient, examples, SPENT + 9)).passed
    assert not next(checks.check_constants(strict, examples, SPENT + 9)).passed
    by_r2 = replace(basket, gate=replace(basket.gate, metric="r2"))
    assert "than always 8.4, the mean" in next(checks.check_constants(by_r2, examples, SPENT + 9)).reason


def test_an_order_is_compared_with_that_of_a_constant_if_the_metric_has_one() -> None:
    examples = replace(EXAMPLES, constants={"0.5, the share of positive labels": 0.5})
    assert next(checks.check_constants(returns, examples, GOOD)).passed
    assert not next(checks.check_constants(returns, examples, RNG.normal(size=ROWS))).passed
    ranked = replace(basket, gate=replace(basket.gate, metric="spearman"))
    assert not list(checks.check_constants(ranked, replace(EXAMPLES, label=SPENT, constants=CONSTANTS), SPENT))


def test_a_metric_of_one_s_own_that_takes_no_constant_is_not_compared_with_one() -> None:
    def lift(label: Array, prediction: Array, weight: Array) -> float:
        if np.ptp(prediction) == 0:
            raise ValueError("all predictions are equal")
        return float(label[prediction > prediction.mean()].mean())

    own = replace(basket, gate=replace(basket.gate, metric="lift", metrics=(Metric("lift", lift),)))
    assert not list(checks.check_constants(own, replace(EXAMPLES, label=SPENT, constants=CONSTANTS), SPENT))


def against(pipeline: Pipeline, score: Array, baseline: Array) -> checks.Check:
    [check] = checks.check_baselines(pipeline, EXAMPLES, score, [BaselineScores("visits", baseline, {})])
    return check


def test_baseline_check_fails_without_a_sure_gain() -> None:
    assert against(returns, GOOD, POOR).passed
    assert not against(replace(returns, gate=replace(returns.gate, baseline_margin=0.0)), GOOD, GOOD * 2).passed
    assert not against(returns, POOR, GOOD).passed


def test_a_gain_that_the_rows_do_not_prove_says_so() -> None:
    few = SplitExamples(FEATURES[:60], LABEL[:60], (), encoding_of(returns.feature_columns, {}))
    rival = GOOD + np.random.default_rng(5).normal(0, 0.6, ROWS)
    lenient = replace(returns, gate=replace(returns.gate, baseline_margin=-0.1))
    [check] = checks.check_baselines(lenient, few, GOOD[:60], [BaselineScores("visits", rival[:60], {})])
    assert check.value > 0 > check.low
    assert not check.passed
    assert check.reason.endswith(
        "-0.1 wanted, and not surely: the interval has to be above 0; more test rows make it narrower"
    )
    assert "surely" not in against(returns, GOOD, POOR).reason
    assert "surely" not in against(returns, POOR, GOOD).reason


def test_of_several_baselines_each_has_to_be_beaten() -> None:
    several = [BaselineScores("poor", POOR, {}), BaselineScores("good", GOOD, {})]
    found = {check.name: check.passed for check in checks.check_baselines(returns, EXAMPLES, GOOD, several)}
    assert found == {"baseline:poor": True, "baseline:good": False}


def test_champion_check_allows_the_margin_and_no_more() -> None:
    slightly = GOOD + RNG.normal(0, 0.02, ROWS)
    assert checks.check_champion(returns, EXAMPLES, slightly, GOOD, version=3).passed
    worse = checks.check_champion(returns, EXAMPLES, POOR, GOOD, version=3)
    assert not worse.passed
    assert "worse than champion 3" in worse.reason


def test_slice_check_finds_the_slice_that_got_worse_though_the_whole_did_not() -> None:
    pipeline = replace(returns, gate=replace(returns.gate, slices=("visits", "noise")))
    features = FEATURES.copy()
    features[:, 4] = RNG.integers(0, 2, ROWS)
    hurt = np.where(features[:, 4] == 1, POOR, GOOD)
    encoding = encoding_of(pipeline.feature_columns, {})
    examples = SplitExamples(features, LABEL, (), encoding)
    failed = [check.name for check in checks.check_slices(pipeline, examples, hurt, GOOD) if not check.passed]
    assert "slice:noise 1" in failed
    assert "slice:noise 0" not in failed


def test_slices_cover_every_row_once() -> None:
    values = FEATURES[:, 0].copy()
    values[:50] = np.nan
    covered = sum(rows.astype(int) for _, rows in slices(values))
    assert (covered == 1).all()
    assert [name for name, _ in slices(np.array([1, 2, 1, np.nan], dtype=np.float32))] == ["1", "2", "unknown"]


def test_psi_is_zero_for_equal_scores_and_grows_with_the_shift() -> None:
    assert checks.psi(GOOD, GOOD) == pytest.approx(0)
    assert 0 < checks.psi(GOOD, GOOD + 0.3) < checks.psi(GOOD, GOOD + 1)


def test_shift_and_size_checks_hold_their_limits() -> None:
    gate = replace(returns.gate, max_prediction_psi=0.2, max_size_bytes=1000)
    assert not checks.check_shift(replace(returns, gate=gate), GOOD + 2, GOOD).passed
    assert checks.check_shift(returns, GOOD + 2, GOOD).passed
    assert not checks.check_size(gate, 1001).passed


class Slow:
    """A model that needs two milliseconds for a row."""

    def predict(self, rows: object) -> None:
        time.sleep(0.002)


def test_latency_check_holds_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_LATENCY_CALLS", 5)
    strict, lenient = (replace(returns.gate, max_latency_ms=limit) for limit in (1.0, 60_000.0))
    failed = checks.check_latency(strict, cast(CandidateModel, Slow()), FEATURES)
    assert not failed.passed
    assert failed.value is not None
    assert failed.value >= 2.0
    assert checks.check_latency(lenient, cast(CandidateModel, Slow()), FEATURES).passed


def test_schema_check_names_what_changed() -> None:
    names = returns.feature_names
    assert checks.check_schema(returns, names, "return_probability", {}).passed
    assert "clicks" in checks.check_schema(returns, (*names[:-1], "clicks"), "return_probability", {}).reason
    assert "order" in checks.check_schema(returns, names[::-1], "return_probability", {}).reason
    assert not checks.check_schema(returns, names, "other", {}).passed
    published = dict.fromkeys(names, "float")
    assert checks.check_schema(basket, names, "expected_spend", published).passed
    assert not checks.check_schema(basket, names, "expected_spend", {**published, "noise": "string"}).passed
    del published["noise"]  # which the next features have
    assert checks.check_schema(basket, names, "expected_spend", published).passed
