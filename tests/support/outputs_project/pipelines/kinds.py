"""Pipelines over visits with outputs of every kind that is trained here: classes, quantiles, numbers and a vector."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from sample_project.pipelines import visits

from forecache.declare import (
    Baseline,
    Classes,
    EntitySplit,
    EstimatorModel,
    Gate,
    Label,
    Metric,
    Output,
    Pipeline,
    Quantiles,
    Segment,
    TorchModel,
    Vector,
)

LEVELS = (0.1, 0.5, 0.9)


def several(num_features: int, num_classes: int) -> Any:
    from torch import nn

    return nn.Sequential(nn.Linear(num_features, 32), nn.ReLU(), nn.Linear(32, num_classes))


def wide(width: int) -> Any:
    def build(num_features: int) -> Any:
        from torch import nn

        return nn.Sequential(nn.Linear(num_features, 16), nn.ReLU(), nn.Linear(16, width))

    return build


def gaussian_loss(output: Any, target: Any) -> Any:
    """The negative log-likelihood of a mean and a log deviation, and a little for the vector."""
    import torch

    mean, scale = output[:, :1], output[:, 1:2].clamp(-5, 5)
    return (scale + (target - mean) ** 2 * torch.exp(-2 * scale) / 2).mean() + 1e-3 * (output[:, 2:] ** 2).mean()


def plan_trees() -> Any:
    from lightgbm import LGBMClassifier

    return LGBMClassifier(n_estimators=60, learning_rate=0.1, num_leaves=15, verbose=-1)


def plan_forest() -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(max_iter=40)


def plan_boosting() -> Any:
    from xgboost import XGBClassifier

    return XGBClassifier(n_estimators=40, max_depth=4)


def spend_trees(levels: Sequence[float]) -> Any:
    from lightgbm import LGBMRegressor

    return [LGBMRegressor(objective="quantile", alpha=level, n_estimators=80, verbose=-1) for level in levels]


def spend_forests(levels: Sequence[float]) -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    return [HistGradientBoostingRegressor(loss="quantile", quantile=level, max_iter=40) for level in levels]


def spend_boosting(levels: Sequence[float]) -> Any:
    from xgboost import XGBRegressor

    return XGBRegressor(objective="reg:quantileerror", quantile_alpha=list(levels), n_estimators=60, max_depth=4)


def gold_recall(label: Any, prediction: Any, weight: Any) -> float:
    """Share of the rows of the second class, gold, that are found."""
    gold = label == 1
    return float(np.average(prediction.argmax(axis=1)[gold] == 1, weights=weight[gold]))


plan = Pipeline(
    name="plan",
    key=("user_id",),
    sources=(visits.VISITS,),
    features=visits.returns.features,
    label=Label("plan", "multiclass", 30, visits.label),
    model=TorchModel(build=several),
    training=replace(visits.returns.training, epochs=6),
    outputs=(Classes("next_plan"),),
    gate=Gate(
        metric="log_loss",
        floors={"accuracy": 0.5, "gold_recall": 0.2},
        max_ece=0.1,
        max_latency_ms=1000.0,
        slices=("visits",),
        metrics=(Metric("gold_recall", gold_recall),),
    ),
)
plan_lightgbm = replace(plan, name="plan_lightgbm", model=EstimatorModel(build=plan_trees, patience=10))
plan_sklearn = replace(plan, name="plan_sklearn", model=EstimatorModel(build=plan_forest))
plan_xgboost = replace(plan, name="plan_xgboost", model=EstimatorModel(build=plan_boosting))
plan_weighted = replace(plan_lightgbm, name="plan_weighted", label=replace(plan.label, weight="importance"))

spend = replace(
    visits.basket,
    name="spend",
    model=TorchModel(build=wide(3), target="log1p"),
    outputs=(Quantiles("spend", LEVELS, minimum=0.0),),
    segments=(Segment("size", "spend_q50", (20.0, 40.0), ("small", "medium", "large")),),
    gate=Gate(metric="pinball_loss", floors={"coverage_error": 0.1}, max_latency_ms=1000.0),
)
spend_lightgbm = replace(spend, name="spend_lightgbm", model=EstimatorModel(build=spend_trees, patience=10))
spend_sklearn = replace(spend, name="spend_sklearn", model=EstimatorModel(build=spend_forests))
spend_xgboost = replace(spend, name="spend_xgboost", model=EstimatorModel(build=spend_boosting))

basket = replace(
    visits.basket,
    name="several",
    model=TorchModel(build=wide(6), loss=gaussian_loss),
    outputs=(
        Output("expected", minimum=0.0, description="The mean."),
        Output("log_deviation", minimum=-5.0, maximum=5.0),
        Vector("embedding", 4),
    ),
    gate=replace(visits.basket.gate, floors={}, baseline=Baseline("noise"), baseline_margin=-1000.0),
)
by_entity = replace(plan_lightgbm, name="by_entity", training=replace(plan.training, split=EntitySplit(0.2, 0.3)))
