"""What a customer spends the next day, by features of every type: a network, and trees, over one feature view."""

from collections.abc import Mapping
from datetime import date
from typing import Any

from forecache.declare import (
    Baseline,
    Column,
    EstimatorModel,
    Feature,
    Features,
    FeatureView,
    Gate,
    Label,
    Output,
    Pipeline,
    Publish,
    Source,
    TorchModel,
    Training,
)

VISITS = Source(
    name="typed_visits",
    columns=(
        Column("customer", "string"),
        Column("day", "date"),
        Column("amount", "double"),
        Column("shop", "string", required=False),
        Column("note", "string", required=False),
    ),
    event_time="day",
    start=date(2026, 1, 1),
    end=date(2026, 1, 9),
)
LARGE = 9_007_199_254_740_993  # not a float64, let alone a float32


def compute(rows: Mapping[str, Any]) -> Any:
    from pyspark.sql import functions as F

    last = F.max_by("shop", "day").alias("shop"), F.max_by("note", "day").alias("note")
    found = (
        rows["typed_visits"]
        .groupBy("customer", "as_of")
        .agg(F.sum("amount").alias("amount"), F.count("*").alias("visits"), *last)
    )
    shape = F.when(F.col("amount") > 0, F.array(F.col("amount"), F.col("visits").cast("double"), F.lit(None)))
    number = F.lit(LARGE) + F.col("visits")
    return found.withColumn("shape", shape).withColumn("number", F.when(F.col("customer") != "c000", number))


def next_day(entities: Any, rows: Mapping[str, Any]) -> Any:
    from pyspark.sql import functions as F

    spent = rows["typed_visits"].groupBy("customer", "as_of").agg(F.sum("amount").alias("spent"))
    return entities.join(spent, ["customer", "as_of"], "left").fillna(0.0, ["spent"])


def network(num_features: int, *, categories: Mapping[str, Any]) -> Any:
    from torch import nn

    from forecache.plugins.torch.worker.network import EmbeddedCategories

    embedded = EmbeddedCategories(num_features, categories, dimension=4)
    return nn.Sequential(embedded, nn.Linear(embedded.width, 16), nn.ReLU(), nn.Linear(16, 1))


def trees() -> Any:
    from lightgbm import LGBMRegressor

    return LGBMRegressor(n_estimators=30, min_child_samples=5, verbose=-1, n_jobs=1)


VIEW = FeatureView(
    name="of_all_types",
    key=("customer",),
    sources=(VISITS,),
    features=Features(
        compute=compute,
        columns=(
            Feature("amount", log=True),
            Feature("shop", type="category"),
            Feature("number", type="integer"),
            Feature("note", type="text", size=4),
            Feature("shape", type="vector", size=3),
        ),
    ),
)

network_typed = Pipeline(
    name="network_typed",
    key=("customer",),
    features=VIEW,
    label=Label(name="spent", kind="regression", horizon_days=1, compute=next_day),
    model=TorchModel(build=network),
    training=Training(num_as_of=3, every_days=1, epochs=3, batch_size=64),
    outputs=(Output("expected"),),
    gate=Gate(
        metric="mae", floors={}, baseline=Baseline("amount"), baseline_margin=-1e9, slices=("shop",),
        max_latency_ms=1000.0, max_regression=1e9,
    ),
    publish=Publish(max_row_change=None, max_psi=None),
)  # fmt: skip

trees_typed = Pipeline(
    name="trees_typed",
    key=("customer",),
    features=VIEW,
    label=network_typed.label,
    model=EstimatorModel(build=trees),
    training=network_typed.training,
    outputs=network_typed.outputs,
    gate=network_typed.gate,
    publish=network_typed.publish,
)
