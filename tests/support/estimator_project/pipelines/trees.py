"""The pipelines over visits with LightGBM, XGBoost and scikit-learn in place of a network."""

from dataclasses import replace
from typing import Any

from sample_project.pipelines import visits

from forecache.declare import EstimatorModel, Segment


def gradient_boosting() -> Any:
    from lightgbm import LGBMClassifier

    return LGBMClassifier(
        n_estimators=400, learning_rate=0.05, num_leaves=15, subsample=0.8, subsample_freq=1, verbose=-1
    )


def spend_boosting() -> Any:
    from xgboost import XGBRegressor

    return XGBRegressor(n_estimators=200, max_depth=4, learning_rate=0.1, subsample=0.8)


def imputed_logistic() -> Any:
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression(max_iter=1000))


def no_classifier() -> Any:
    from sklearn.linear_model import LinearRegression

    return LinearRegression()


churn_trees = replace(
    visits.returns,
    name="churn_trees",
    model=EstimatorModel(build=gradient_boosting, patience=20),
    segments=(Segment("band", "return_probability", (0.3, 0.7), ("low", "medium", "high")),),
)
basket_trees = replace(visits.basket, name="basket_trees", model=EstimatorModel(build=spend_boosting))
# scikit-learn takes milliseconds for a row, and a busy machine more.
churn_logistic = replace(
    visits.returns,
    name="churn_logistic",
    model=EstimatorModel(build=imputed_logistic),
    gate=replace(visits.returns.gate, max_latency_ms=1e6),
)
churn_wrong = replace(visits.returns, name="churn_wrong", model=EstimatorModel(build=no_classifier))


def spend_tweedie() -> Any:
    from lightgbm import LGBMRegressor

    return LGBMRegressor(objective="tweedie", n_estimators=300, learning_rate=0.05, num_leaves=15, verbose=-1)


basket_refit = replace(
    visits.basket,
    name="basket_refit",
    model=EstimatorModel(build=spend_tweedie, patience=10),
    training=replace(visits.basket.training, refit=True),
)
