"""Orders: what a customer spends the next day, from what was spent so far.

An order must stay below 5,000, a feature below 1,000.
"""

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
    expect,
)

ORDERS = Source(
    name="orders",
    description="Orders of a small shop.",
    owner="data@shop.example",
    columns=(Column("customer", "string"), Column("day", "date"), Column("amount", "double", minimum=0)),
    event_time="day",
    start=date(2026, 1, 1),
    end=date(2026, 1, 6),
    expectations=(
        expect("expect_column_values_to_be_between", column="amount", max_value=500, severity="warning"),
        expect("expect_column_values_to_be_between", column="amount", max_value=5000),
    ),
)


def spent_so_far(events: Mapping[str, Any]) -> Any:
    from pyspark.sql import functions as F

    return events["orders"].groupBy("customer", "as_of").agg(F.sum("amount").alias("spent"))


def spends_next_day(entities: Any, events: Mapping[str, Any]) -> Any:
    from pyspark.sql import functions as F

    totals = events["orders"].groupBy("customer", "as_of").agg(F.sum("amount").alias("next_day"))
    return entities.join(totals, ["customer", "as_of"], "left").fillna(0.0, ["next_day"])


def network(num_features: int) -> Any:
    from torch import nn

    return nn.Linear(num_features, 1)


orders = Pipeline(
    name="orders",
    description="What a customer spends the next day.",
    key=("customer",),
    sources=(ORDERS,),
    features=Features(
        compute=spent_so_far,
        columns=(Feature("spent"),),
        expectations=(expect("expect_column_values_to_be_between", column="spent", max_value=1000),),
    ),
    label=Label(name="next_day", kind="regression", horizon_days=1, compute=spends_next_day),
    model=TorchModel(build=network),
    training=Training(num_as_of=1, every_days=1, epochs=1),
    outputs=(Output("next_spend"),),
    gate=Gate(metric="mae", floors={"mae": 0.0}, baseline=Baseline("spent")),
)
