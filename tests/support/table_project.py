"""Spending: a pipeline over an existing table, whose columns are the features as they are."""

import os
from datetime import date
from typing import Any

from forecache.declare import (
    Baseline,
    Column,
    EstimatorModel,
    Feature,
    Features,
    Gate,
    Label,
    Output,
    Pipeline,
    Snapshot,
    TableSource,
)

PRODUCTS = TableSource(
    "products",
    uri=os.environ.get("TABLE_PROJECT_URI", "/no/table"),
    columns=(Column("product_id", "int"), Column("price", "double")),
    time=Snapshot(),
    key=("product_id",),
    missing="last",
    start=date(2026, 1, 1),
)


def dearer(entities: Any, rows: Any) -> Any:
    """The price of the next state."""
    from pyspark.sql import functions as F

    later = rows["products"].groupBy("product_id", "as_of").agg(F.max("price").alias("later"))
    return entities.join(later, ["product_id", "as_of"], "left").fillna(0.0, ["later"])


def regression() -> Any:
    from sklearn.linear_model import LinearRegression

    return LinearRegression()


spending = Pipeline(
    name="spending",
    key=("product_id",),
    sources=(PRODUCTS,),
    features=Features(columns=(Feature("price"),)),
    label=Label(name="later", kind="regression", horizon_days=1, compute=dearer),
    model=EstimatorModel(build=regression),
    outputs=(Output("later_price"),),
    gate=Gate(metric="mae", floors={"mae": 1e9}, baseline=Baseline("price")),
)
