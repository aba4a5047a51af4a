"""What a customer spends, by a rule of what was spent before."""

from collections.abc import Mapping
from datetime import date
from typing import Any

from forecache import Column, Feature, Features, FeatureView, FunctionModel, Output, Pipeline, Publish, Source

SALES = Source(
    name="sales",
    columns=(Column("customer", "bigint"), Column("day", "date"), Column("amount", "double")),
    event_time="day",
    start=date(2026, 1, 1),
    end=date(2026, 1, 20),
)


def habits(rows: Mapping[str, Any]) -> Any:
    """Purchases and the largest amount of each customer."""
    from pyspark.sql import functions as F

    bought = rows["sales"].groupBy("customer", "as_of")
    return bought.agg(F.count("*").alias("purchases"), F.max("amount").alias("most"))


HABITS = FeatureView(
    "habits",
    key=("customer",),
    sources=(SALES,),
    features=Features((Feature("purchases"), Feature("most")), habits),
)


def expected(features: Mapping[str, Any]) -> Any:
    return features["purchases"] * 0.5 + features["most"]


spend = Pipeline(
    name="spend",
    key=("customer",),
    features=(HABITS,),
    model=FunctionModel(expected),
    outputs=(Output("next_spend"),),
    publish=Publish(max_psi=None),
)
