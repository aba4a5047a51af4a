"""Requests with offers, of which some were taken, ranked by LightGBM, by XGBoost, and offer by offer."""

from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np

from forecache import Rows
from forecache.declare import (
    Baseline,
    Candidates,
    Column,
    EstimatorModel,
    Examples,
    Feature,
    Gate,
    OrderGiven,
    Realtime,
    RequestField,
    Source,
)

FEATURES = ("taste", "popularity", "price")
SHOWN = Source(
    name="shown",
    columns=(Column("request_id", "string"), Column("position", "int"), Column("day", "date")),
    event_time="day",
    start=date(2024, 1, 1),
)


def nothing(*_: Any) -> Any:
    raise NotImplementedError("the tests write the training set themselves")


def lambdamart() -> Any:
    from lightgbm import LGBMRanker

    return LGBMRanker(n_estimators=80, num_leaves=7, min_child_samples=5, verbose=-1)


def xgboost_ranker() -> Any:
    from xgboost import XGBRanker

    return XGBRanker(n_estimators=80, max_depth=3)


def by_offer() -> Any:
    from lightgbm import LGBMRegressor

    return LGBMRegressor(n_estimators=80, num_leaves=7, verbose=-1)


def stack_features(rows: Rows) -> np.ndarray:
    return np.column_stack([rows["taste"], rows["popularity"], rows["price"]]).astype(np.float32)


EXAMPLES = Examples((SHOWN,), nothing, "taken", "ranking")

offers = Realtime(
    name="offers",
    request=(),
    candidates=Candidates((RequestField("offer", "string"), *(RequestField(name, "double") for name in FEATURES))),
    transform=stack_features,
    features=tuple(map(Feature, FEATURES)),
    examples=EXAMPLES,
    model=EstimatorModel(lambdamart, patience=20),
    gate=Gate("ndcg@10", {"ndcg@10": 0.4}, baseline=(Baseline("popularity"), Baseline("price", scale=-1.0))),
    fallbacks=(OrderGiven(),),
)
offers_xgboost = replace(offers, name="offers_xgboost", model=EstimatorModel(xgboost_ranker, patience=20))
offers_by_offer = replace(offers, name="offers_by_offer", model=EstimatorModel(by_offer))
weighted_offers = replace(offers, name="weighted_offers", examples=replace(EXAMPLES, weight="worth"))
weighted_xgboost = replace(weighted_offers, name="weighted_xgboost", model=offers_xgboost.model)
