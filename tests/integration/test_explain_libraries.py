"""Contributions by the libraries of the models: they sum to what the library itself says of the row."""

import numpy as np
import pytest

from forecache.plugins.explain import contributions


def test_those_of_xgboost_sum_to_the_raw_score_with_unknown_features() -> None:
    import xgboost

    rng = np.random.default_rng(1)
    rows = rng.normal(size=(500, 3)).astype(np.float32)
    rows[rng.random(rows.shape) < 0.2] = np.nan
    label = (np.nan_to_num(rows).sum(axis=1) > 0).astype(int)
    names = ["a", "b", "c"]
    booster = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(rows, label, feature_names=names), 5)
    row = np.array([0.5, np.nan, 1.0], np.float32)
    found = contributions._xgboost_contributions(bytes(booster.save_raw("json")), row, rows[:1], "")
    assert found is not None
    probability = float(booster.inplace_predict(row[None])[0])
    assert found.scale == "raw score"
    assert 1 / (1 + np.exp(-found.total)) == pytest.approx(probability, rel=1e-5)


def test_those_of_a_linear_estimator_are_products() -> None:
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from forecache.plugins.estimators.skops_files import skops_io

    rng = np.random.default_rng(2)
    rows = rng.normal(size=(50, 3))
    row, background = rows[0].astype(np.float32), rows[1:9].astype(np.float32)
    ridge = Ridge().fit(rows, rows @ [1, 2, 3])
    found = contributions._sklearn_contributions(skops_io().dumps(ridge), row, background, "")
    assert found is not None
    np.testing.assert_allclose(found.values, ridge.coef_ * (row - background.mean(axis=0)), rtol=1e-5)
    assert found.total == pytest.approx(ridge.predict(row[None].astype(np.float64))[0], rel=1e-6)
    logistic = LogisticRegression().fit(rows, rows.sum(axis=1) > 0)
    found = contributions._sklearn_contributions(skops_io().dumps(logistic), row, background, "")
    assert found is not None
    assert found.total == pytest.approx(logistic.decision_function(row[None])[0], rel=1e-5)
    scaled = make_pipeline(StandardScaler(), Ridge()).fit(rows, rows @ [1, 2, 3])
    assert contributions._sklearn_contributions(skops_io().dumps(scaled), row, background, "") is None
