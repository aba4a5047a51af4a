"""Two pipelines over made-up visits: `returns` (binary) and `basket` (a regression on log1p)."""

from collections.abc import Mapping
from datetime import date
from typing import Any

from forecache.declare import (
    Baseline,
    Column,
    Feature,
    Features,
    Gate,
    Label,
    Output,
    Pipeline,
    Source,
    TorchModel,
    Training,
)

VISITS = Source(
    name="visits",
    columns=(Column("user_id", "string"), Column("day", "date"), Column("amount", "double")),
    event_time="day",
    start=date(2024, 1, 1),
)
FEATURES = (
    Feature("recency", log=True),
    Feature("amount", log=True),
    Feature("visits"),
    Feature("gap"),
    Feature("noise"),
)


def features(events: Mapping[str, Any]) -> Any:
    raise NotImplementedError("the tests write the training set themselves")


def label(entities: Any, events: Mapping[str, Any]) -> Any:
    raise NotImplementedError("the tests write the training set themselves")


def network(num_features: int) -> Any:
    from torch import nn

    return nn.Sequential(nn.Linear(num_features, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1))


returns = Pipeline(
    name="returns",
    key=("user_id",),
    sources=(VISITS,),
    features=Features(compute=features, columns=FEATURES),
    label=Label("returned", "binary", 30, label),
    model=TorchModel(build=network),
    training=Training(epochs=4, batch_size=256, learning_rate=0.01),
    outputs=(Output("return_probability", minimum=0.0, maximum=1.0),),
    gate=Gate(
        metric="roc_auc", floors={"roc_auc": 0.6}, baseline=Baseline("recency", scale=-1.0), baseline_margin=0.005
    ),
)

basket = Pipeline(
    name="basket",
    key=("user_id",),
    sources=(VISITS,),
    features=Features(compute=features, columns=FEATURES),
    label=Label("spent", "regression", 30, label),
    model=TorchModel(build=network, target="log1p"),
    training=Training(epochs=20, batch_size=256, learning_rate=0.01),
    outputs=(Output("expected_spend", minimum=0.0),),
    gate=Gate(metric="mae", floors={"mae": 20.0}, baseline=Baseline("amount")),
)
