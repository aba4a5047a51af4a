"""How good a ranking is: against scikit-learn, against all orders of what ties, and what the gate says of it."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ranked_project.pipelines.offers import nothing, offers
from ranking_sample import requests
from sample_project.pipelines.visits import returns

from forecache.base.errors import SettingsError
from forecache.base.ranking import mean_of_requests, ndcg, recall, reciprocal_rank, sizes_of, weight_of_requests
from forecache.declare import Baseline, Gate, Label, Metric, TorchModel
from forecache.models.registry.gate import gate_checks as checks
from forecache.models.registry.gate.examples import slices
from forecache.models.registry.gate.gate_checks import gain_interval, weighted_metric
from forecache.models.registry.gate.metric_judge import RANDOM, judge_of, score_baselines

EXAMPLES = requests(600)
SIZES = EXAMPLES.sizes
assert SIZES is not None
TASTE, POPULARITY = (EXAMPLES.features[:, i].astype(np.float64) for i in (0, 1))
ROUNDED = np.round(TASTE)  # so that scores tie

# Of each request some labels and scores, few enough of each that all orders of what ties can be tried.
small_requests = st.lists(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from([-math.inf, 0, 1, math.inf])), min_size=1, max_size=5),
    min_size=1,
    max_size=4,
)


def in_all_orders(request: list[tuple[int, float]], worth: Callable[[list[int]], float]) -> float:
    """The mean of what an order is worth, over all orders in which no score follows a smaller one."""
    orders = [
        order for order in itertools.permutations(request) if all(a[1] >= b[1] for a, b in itertools.pairwise(order))
    ]
    return float(np.mean([worth([label for label, _ in order]) for order in orders]))


def first_good(labels: list[int]) -> float:
    return 1 / (1 + next(i for i, label in enumerate(labels) if label))


def discounted(labels: list[int]) -> float:
    return sum((2**label - 1) / math.log2(place + 2) for place, label in enumerate(labels[:3]))


@given(small_requests)
def test_metrics_are_means_over_all_orders_of_what_ties(some: list[list[tuple[int, float]]]) -> None:
    label, score = (np.array([pair[i] for request in some for pair in request], float) for i in (0, 1))
    sizes = np.array([len(request) for request in some])
    found = {
        "ndcg": ndcg(label, score, sizes, places=3),
        "recall": recall(label, score, sizes, places=3),
        "mrr": reciprocal_rank(label, score, sizes),
    }
    for number, request in enumerate(some):
        good = sum(label > 0 for label, _ in request)

        def found_of(labels: list[int], good: int = good) -> float:
            return sum(each > 0 for each in labels[:3]) / good

        if not good:
            assert all(np.isnan(values[number]) for values in found.values())
            continue
        best = discounted(sorted((label for label, _ in request), reverse=True))
        expected = {
            "ndcg": in_all_orders(request, discounted) / best,
            "recall": in_all_orders(request, found_of),
            "mrr": in_all_orders(request, first_good),
        }
        assert {name: values[number] for name, values in found.items()} == pytest.approx(expected)


@pytest.mark.parametrize("places", [1, 5, 10, 40])
def test_ndcg_equals_scikit_learns(places: int) -> None:
    from sklearn.metrics import ndcg_score

    label = EXAMPLES.label * np.where(TASTE > 1, 2, 1)
    found = ndcg(label, ROUNDED, SIZES, places=places)
    ends = np.cumsum(SIZES)
    for number, (start, end) in enumerate(zip(ends - SIZES, ends, strict=True)):
        gains = np.exp2(label[start:end]) - 1
        if not gains.any():
            assert np.isnan(found[number])
            continue
        assert found[number] == pytest.approx(ndcg_score([gains], [ROUNDED[start:end]], k=places))


def test_requests_are_runs_of_equal_ids() -> None:
    assert sizes_of(np.array(["a", "a", "b", "c", "c", "c"], object)).tolist() == [2, 1, 3]
    assert sizes_of(np.array([], object)).tolist() == []


def test_the_mean_leaves_out_requests_that_say_nothing() -> None:
    assert mean_of_requests(np.array([1.0, np.nan, 0.0]), np.array([3.0, 9.0, 1.0])) == 0.75
    assert math.isnan(mean_of_requests(np.array([np.nan]), np.ones(1)))


@pytest.mark.parametrize("metric", ["ndcg@10", "recall@10", "mrr"])
def test_the_bootstrap_draws_requests_and_not_rows(metric: str) -> None:
    times = np.random.default_rng(1).integers(0, 4, len(SIZES))
    weight = np.repeat(np.random.default_rng(2).uniform(0.5, 2, len(SIZES)), SIZES)
    drawn = np.repeat(np.arange(len(SIZES)), times)
    ends = np.cumsum(SIZES)
    rows = np.concatenate([np.arange(ends[i] - SIZES[i], ends[i]) for i in drawn])
    judge, again = judge_of(offers, SIZES), judge_of(offers, SIZES[drawn])
    expected = again.metrics[metric](EXAMPLES.label[rows], ROUNDED[rows], weight[rows])
    found = weighted_metric(judge, metric, EXAMPLES.label, ROUNDED, weight)(times.astype(float))
    assert found == pytest.approx(expected)


def test_rows_of_a_request_with_another_label_are_drawn_together_too() -> None:
    judge = judge_of(returns, SIZES)
    times = np.random.default_rng(1).integers(0, 4, len(SIZES)).astype(float)
    score = 1 / (1 + np.exp(-TASTE))
    rows = np.repeat(np.arange(len(TASTE)), np.repeat(times, SIZES).astype(int))
    found = weighted_metric(judge, "roc_auc", EXAMPLES.label, score)(times)
    assert found == pytest.approx(judge.metrics["roc_auc"](EXAMPLES.label[rows], score[rows]))


def test_the_interval_of_a_gain_is_wider_where_the_rows_of_a_request_say_the_same() -> None:
    rng = np.random.default_rng(3)
    score, noise = np.repeat(rng.normal(size=40), 20), np.repeat(rng.normal(size=40), 20)
    label = (score + np.repeat(rng.normal(size=40), 20) > 0).astype(float)

    def width(sizes: np.ndarray) -> float:
        low, high = gain_interval(judge_of(returns, sizes), "roc_auc", label, score, noise, seed=1)
        return high - low

    assert width(np.full(40, 20)) > 3 * width(np.full(800, 1))


def test_baselines_are_ordered_by_worth_and_a_random_order_is_always_among_them() -> None:
    found = score_baselines(offers, EXAMPLES)
    assert [each.name for each in found][0] == "popularity"
    assert {each.name for each in found} == {"popularity", "price", RANDOM}
    shuffled = np.random.default_rng(9)
    values = [
        judge_of(offers, SIZES).metrics["ndcg@10"](EXAMPLES.label, shuffled.random(len(TASTE))) for _ in range(30)
    ]
    random = next(each for each in found if each.name == RANDOM)
    assert random.metrics["ndcg@10"] == pytest.approx(np.mean(values), abs=0.01)


def test_a_candidate_whose_feature_is_null_comes_last() -> None:
    features = EXAMPLES.features.copy()
    features[EXAMPLES.label == 0, 1] = np.nan
    best = score_baselines(offers, replace(EXAMPLES, features=features))[0]
    assert best.name == "popularity"
    assert best.metrics["ndcg@10"] > 0.99


def test_every_baseline_has_to_be_beaten_surely() -> None:
    baselines = score_baselines(offers, EXAMPLES)
    by_taste = {check.name: check for check in checks.check_baselines(offers, EXAMPLES, TASTE, baselines)}
    assert all(check.passed for check in by_taste.values())
    assert f"baseline:{RANDOM}" in by_taste
    check = by_taste["baseline:popularity"]
    assert check.low is not None
    assert check.high is not None
    assert check.value is not None
    assert 0 < check.low < check.value < check.high
    again = {check.name: check for check in checks.check_baselines(offers, EXAMPLES, POPULARITY, baselines)}
    assert not again["baseline:popularity"].passed
    assert again[f"baseline:{RANDOM}"].passed


def test_a_slice_is_of_whole_requests_by_their_first_candidate() -> None:
    examples = requests(3000, seed=6)
    assert examples.sizes is not None
    starts = np.cumsum(examples.sizes) - examples.sizes
    of_request = np.random.default_rng(1).integers(0, 2, len(starts)).astype(np.float32)
    features = examples.features.copy()
    features[:, 2] = np.random.default_rng(2).integers(0, 2, len(features))
    features[starts, 2] = of_request
    examples = replace(examples, features=features)
    score = features[:, 0].astype(np.float64)
    hurt = np.where(np.repeat(of_request, examples.sizes) == 1, -score, score)
    pipeline = replace(offers, gate=replace(offers.trained_gate, slices=("price",)))
    found = {check.name: check for check in checks.check_slices(pipeline, examples, hurt, score)}
    assert {name: check.passed for name, check in found.items()} == {"slice:price 0": True, "slice:price 1": False}
    assert f"{int((of_request == 1).sum())} requests" in found["slice:price 1"].reason


def test_a_metric_of_your_own_is_called_for_each_request() -> None:
    def top_is_good(label: np.ndarray, prediction: np.ndarray, weight: np.ndarray) -> float:
        return float(label[prediction.argmax()] > 0) if label.any() else float("nan")

    own = Metric("top_is_good", top_is_good)
    pipeline = replace(offers, gate=replace(offers.trained_gate, metric="top_is_good", metrics=(own,)))
    judge = judge_of(pipeline, SIZES)
    found = judge.measure(EXAMPLES.label, TASTE)
    assert found["top_is_good"] == pytest.approx(
        mean_of_requests(recall_of_the_first(), weight_of_requests(None, SIZES))
    )


def recall_of_the_first() -> np.ndarray:
    ends = np.cumsum(SIZES)
    values = []
    for start, end in zip(ends - SIZES, ends, strict=True):
        label = EXAMPLES.label[start:end]
        values.append(label[TASTE[start:end].argmax()] if label.any() else np.nan)
    return np.array(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": TorchModel(nothing)}, "learns a ranking by a network, and has no loss for it"),
        ({"gate": Gate("roc_auc", {})}, "judges a ranking label by 'roc_auc'"),
        ({"gate": Gate("ndcg@0", {})}, "judges a ranking label by 'ndcg@0'"),
        ({"gate": Gate("mrr", {"ndcg@5": 0.1}, max_ece=0.1)}, "gate.max_ece=0.1"),
        ({"gate": Gate("mrr", {}, baseline=(Baseline("taste"), Baseline("charm")))}, "baseline feature 'charm'"),
    ],
)
def test_a_declaration_that_cannot_be_judged_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match="^") as refused:
        replace(offers, **change)  # type: ignore[arg-type]
    assert message in str(refused.value)


def test_a_ranking_of_rows_without_a_request_is_refused() -> None:
    label = Label("taken", "ranking", 1, nothing)
    with pytest.raises(SettingsError, match="has a ranking as its label, which compares the candidates of a request"):
        replace(returns, label=label)


def test_a_ranking_needs_no_baseline_but_the_random_order() -> None:
    pipeline = replace(offers, gate=Gate("ndcg@5", {}))
    assert [each.name for each in score_baselines(pipeline, EXAMPLES)] == [RANDOM]
    assert set(judge_of(pipeline, SIZES).metrics) == {"ndcg@5", "recall@5", "mrr"}


def test_a_baseline_is_named_once() -> None:
    with pytest.raises(SettingsError, match="the baseline 'taste' twice"):
        Gate("mrr", {}, baseline=(Baseline("taste"), Baseline("taste", scale=-1.0)))


def test_a_label_of_classes_takes_no_metric_of_a_ranking() -> None:
    with pytest.raises(SettingsError, match="judges a binary label by 'ndcg@10'"):
        replace(returns, gate=replace(returns.trained_gate, metric="ndcg@10"))
    assert Label("taken", "ranking", 1, nothing).kind == "ranking"


def test_slices_have_every_row_once_where_values_are_infinite() -> None:
    values = np.array([*range(20), *[np.inf] * 9, -np.inf, np.nan], np.float32)
    found = dict(slices(values))
    assert np.array_equal(np.sum(list(found.values()), axis=0), np.ones(len(values)))
    assert list(found) == ["-inf to 4.75", "4.75 to 9.5", "9.5 to 14.25", "14.25 to inf", "unknown"]
