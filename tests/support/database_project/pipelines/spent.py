"""Spent: what was spent on a product, from the sales of the last days in a database."""

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from forecache.declare import Column, Feature, Features, FunctionModel, Output, Pipeline, Query, Source

SALES = Source(
    "sales",
    columns=(
        Column("sale_id", "bigint"),
        Column("product_id", "int"),
        Column("amount", "double"),
        Column("sold_at", "timestamp"),
    ),
    event_time="sold_at",
    start=datetime.now(timezone.utc).date() - timedelta(days=3),
    extract=Query("shop", table="shop.sales"),
)


def spent_so_far(rows: Mapping[str, Any]) -> Any:
    from pyspark.sql import functions as F

    return rows["sales"].groupBy("product_id", "as_of").agg(F.sum("amount").alias("spent"))


def half(features: Mapping[str, Any]) -> Any:
    return features["spent"] / 2


spent = Pipeline(
    name="spent",
    key=("product_id",),
    sources=(SALES,),
    features=Features(columns=(Feature("spent"),), compute=spent_so_far),
    model=FunctionModel(half),
    outputs=(Output("half_spent"),),
    publish=None,
)
