"""The scores of trees as tables are LightGBM's own, to the bit."""

from typing import Any

import numpy as np
import pytest

from forecache.plugins.estimators.boosters import load_lightgbm as load_booster
from forecache.plugins.estimators.tree_tables import tree_tables

_BIT_PATTERNS = np.array([0x7FC00000, 0xFFC00000, 0xFF800000, 0x7F800000, 0x80000000, 1, 0x80000001], np.uint32)
_ODD = np.concatenate([_BIT_PATTERNS.view(np.float32), np.array([1e-35, -1e-35, 2e-35, -2e-35, 3e38], np.float32)])
"""NaN of both signs, infinities, zeros, and numbers that LightGBM takes as zero or just not."""


def _booster(settings: dict[str, Any]) -> Any:
    import lightgbm

    rng = np.random.default_rng(5)
    features = _features(rng, 1_000)
    known = np.nan_to_num(features.astype(np.float64), posinf=2.0, neginf=-2.0)
    label = known[:, 0].clip(-3, 3) * known[:, 1].clip(-3, 3) + known[:, 2].clip(-1, 1)
    if settings.get("objective") == "binary":
        label = (label > 0).astype(np.float64)
    settings = {"objective": "regression", "verbosity": -1, "num_threads": 1, "min_data_in_leaf": 5, **settings}
    return lightgbm.train(settings, lightgbm.Dataset(features, label), 12)


def _features(rng: np.random.Generator, rows: int) -> np.ndarray:
    features = rng.normal(size=(rows, 5)).astype(np.float32)
    features[:, 3] = rng.integers(-3, 3, rows)
    features[:, 4] *= np.float32(1e-35)
    odd = rng.random(features.shape) < 0.2
    features[odd] = rng.choice(_ODD, int(odd.sum()))
    return features


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_leaves": 2},
        {"num_leaves": 63},
        {"use_missing": False},
        {"objective": "lambdarank", "group": True},
        {"objective": "binary"},
        {"objective": "binary", "sigmoid": 2.5, "learning_rate": 30.0},
    ],
    ids=str,
)
def test_tables_give_the_bits_of_lightgbm_whatever_the_rows(settings: dict[str, Any]) -> None:
    import lightgbm

    if settings.pop("group", False):
        rng = np.random.default_rng(5)
        data = lightgbm.Dataset(_features(rng, 1_000), rng.integers(0, 4, 1_000), group=[50] * 20)
        booster = lightgbm.train({**settings, "verbosity": -1, "num_threads": 1}, data, 12)
    else:
        booster = _booster(settings)
    tables = tree_tables(booster.dump_model())
    assert tables is not None
    for rows in (1, 2, 50, 64, 65, 300):
        features = _features(np.random.default_rng(rows), rows)
        assert tables.scores(features).tobytes() == booster.predict(features, num_threads=1).tobytes()


@pytest.mark.parametrize(
    "settings",
    [
        {"linear_tree": True},
        {"zero_as_missing": True},
        {"num_leaves": 127, "min_data_in_leaf": 1},
        {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5},
        {"objective": "poisson"},
    ],
    ids=str,
)
def test_trees_of_other_kinds_are_left_to_lightgbm(settings: dict[str, Any]) -> None:
    import lightgbm

    text = (_booster(settings) if settings.get("objective") != "poisson" else _counts()).model_to_string()
    kernel = load_booster(text.encode())
    assert kernel._tables is None  # type: ignore[attr-defined]
    features = _features(np.random.default_rng(1), 20)
    expected = lightgbm.Booster(model_str=text).predict(features, num_threads=1)
    np.testing.assert_array_equal(kernel(features), expected)


def _counts() -> Any:
    import lightgbm

    rng = np.random.default_rng(2)
    data = lightgbm.Dataset(rng.random((500, 5)), rng.integers(0, 5, 500))
    return lightgbm.train({"objective": "poisson", "verbosity": -1, "num_threads": 1}, data, 5)
