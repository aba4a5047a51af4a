"""A scikit-learn model that others registered, applied to a Delta table that others keep."""

import os
from datetime import date

from forecache.declare import Column, Feature, Features, Output, Pipeline, RegisteredModel, Snapshot, TableSource

NAMES = ("orders", "spent", "days_since_order")

CUSTOMERS = TableSource(
    "customers",
    uri=os.environ["BORROWED_TABLE"],
    columns=(Column("customer_id", "bigint"), Column("day", "date"), *(Column(name, "double") for name in NAMES)),
    time=Snapshot(day="day"),
    key=("customer_id",),
    start=date(2026, 1, 1),
    end=date(2026, 1, 31),
)

borrowed = Pipeline(
    name="borrowed",
    key=("customer_id",),
    sources=(CUSTOMERS,),
    features=Features(columns=tuple(Feature(name) for name in NAMES)),
    model=RegisteredModel("models:/churn_model@production", returns={"churn_probability": "prediction[1]"}),
    outputs=(Output("churn_probability", minimum=0.0, maximum=1.0),),
)
