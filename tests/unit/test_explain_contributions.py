"""Contributions of features, against Shapley's formula over all orders in which features can be told."""

from itertools import permutations
from typing import Any

import lightgbm
import numpy as np
import pytest
from release_support import lightgbm_trees, onnx_network

from forecache.plugins.explain import contributions
from forecache.plugins.explain.explain import candidate_labels


def by_all_orders(value: Any, count: int) -> np.ndarray:
    """The mean over all orders of what each feature adds to the value of the set of those before it."""
    found, orders = np.zeros(count), list(permutations(range(count)))
    for order in orders:
        for position, place in enumerate(order):
            before = frozenset(order[:position])
            found[place] += value(before | {place}) - value(before)
    return found / len(orders)


def product(rows: np.ndarray) -> np.ndarray:
    """Interactions; what is unknown counts as 2."""
    known = np.where(np.isnan(rows), np.float32(2), rows)
    return known[:, 0] * known[:, 1] - known[:, 2] * known[:, 3] * known[:, 0] + known[:, 4]


def expected(row: np.ndarray, background: np.ndarray) -> np.ndarray:
    def value(chosen: frozenset[int]) -> float:
        mixed = background.copy()
        mixed[:, list(chosen)] = row[list(chosen)]
        return float(product(mixed).mean())

    return by_all_orders(value, len(row))


@pytest.fixture
def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    background = rng.normal(size=(7, 5)).astype(np.float32)
    row = rng.normal(size=5).astype(np.float32)
    row[1], background[2, 3] = np.nan, np.nan
    return row, background


def test_few_features_are_enumerated_to_the_formula(rows: tuple[np.ndarray, np.ndarray]) -> None:
    row, background = rows
    found = contributions.compute_shapley(product, row, background)
    np.testing.assert_allclose(found.values, expected(row, background), rtol=1e-5, atol=1e-6)
    assert (found.method, found.errors) == ("Shapley values by all sets of features", None)
    assert found.base == pytest.approx(product(background).mean(), rel=1e-6)
    assert found.base + found.values.sum() == pytest.approx(product(row[None])[0], rel=1e-5)


def test_drawn_values_are_within_their_errors_and_sum_to_the_score(
    rows: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    row, background = rows
    monkeypatch.setattr(contributions, "MOST_ENUMERATED", 0)
    found = contributions.compute_shapley(product, row, background, permutations=2000)
    assert "by 2,002 permutations" in found.method  # a multiple of the seven rows of the background
    assert (np.abs(found.values - expected(row, background)) <= 4 * found.errors + 1e-6).all()
    assert 0 < found.errors.max() < 0.1
    assert found.base + found.values.sum() == pytest.approx(product(row[None])[0], rel=1e-5)


def test_a_feature_that_is_the_same_in_every_row_contributes_nothing_and_is_not_asked_for() -> None:
    row = np.array([1, np.nan, 3], np.float32)
    background = np.array([[0, np.nan, 3], [5, np.nan, 3]], np.float32)
    asked = []

    def score(matrix: np.ndarray) -> np.ndarray:
        asked.append(len(matrix))
        return matrix[:, 0] * 2

    found = contributions.compute_shapley(score, row, background)
    assert found.values.tolist() == [-3, 0, 0]
    assert len(asked) == 2


def test_the_permutations_of_an_additive_model_are_exact_where_many_features_are_drawn() -> None:
    rng = np.random.default_rng(5)
    weights = rng.normal(size=30)
    row, background = rng.normal(size=30).astype(np.float32), rng.normal(size=(16, 30)).astype(np.float32)
    found = contributions.compute_shapley(
        lambda matrix: matrix.astype(np.float64) @ weights, row, background, permutations=64
    )
    np.testing.assert_allclose(found.values, weights * (row - background.mean(axis=0)), rtol=1e-4, atol=1e-6)


def by_counts(node: dict[str, Any], row: np.ndarray, chosen: frozenset[int]) -> float:
    """A tree's value where features that are not chosen go both ways, by the counts of the rows it was made from."""
    if "leaf_value" in node:
        return float(node["leaf_value"])
    left, right = node["left_child"], node["right_child"]
    if node["split_feature"] in chosen:
        goes_left = float(row[node["split_feature"]]) <= node["threshold"]
        return by_counts(left if goes_left else right, row, chosen)
    counts = [each.get("internal_count", each.get("leaf_count")) for each in (left, right)]
    values = [by_counts(each, row, chosen) for each in (left, right)]
    return float(np.average(values, weights=counts))


def test_those_of_lightgbm_are_the_formula_over_its_trees() -> None:
    payload = lightgbm_trees(4, trees=5)
    row = np.array([0.3, -1.2, 0.8, 0.1], np.float32)
    found = contributions._lightgbm_contributions(payload, row, np.empty((0, 4), np.float32), "")
    assert found is not None
    trees = lightgbm.Booster(model_str=payload.decode()).dump_model()["tree_info"]
    wanted = by_all_orders(lambda chosen: sum(by_counts(t["tree_structure"], row, chosen) for t in trees), 4)
    np.testing.assert_allclose(found.values, wanted, rtol=1e-6, atol=1e-9)
    assert found.total == pytest.approx(lightgbm.Booster(model_str=payload.decode()).predict(row[None])[0], rel=1e-9)


def test_a_network_is_explained_with_unknown_features() -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_network(4))
    row, background = np.array([1, np.nan, 2, -1], np.float32), np.eye(4, dtype=np.float32)

    def score(matrix: np.ndarray) -> np.ndarray:
        return session.run(None, {"features": matrix})[0].reshape(-1)

    found = contributions.compute_shapley(score, row, background)
    assert found.base + found.values.sum() == pytest.approx(float(score(row[None])[0]), rel=1e-4)


def a_record(request: bytes, items: int) -> dict[str, Any]:
    return {"request": request, "items": items}


def test_candidates_are_named_as_far_as_the_request_can_be_read() -> None:
    listed = b'{"household_id": 1, "candidates": [{"product_id": "a", "price": 1}, {"product_id": "b"}]}'
    assert candidate_labels(a_record(listed, 2), None) == ["a", "b"]
    assert candidate_labels(a_record(b'{"household_id": 1, "candidates": ["a", "b"]}', 2), None) == ["a", "b"]
    assert candidate_labels(a_record(b'{"amount": 1}', 1), None) is None
    assert candidate_labels(a_record(b"{", 2), None) == [0, 1]
    assert candidate_labels(a_record(b"[1, 2]", 2), None) == [0, 1]
