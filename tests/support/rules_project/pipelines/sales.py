"""Pipelines over one source whose models are not trained here: a function, an expression, a model of MLflow."""

from collections.abc import Mapping
from datetime import date
from typing import Any

import numpy as np

from forecache.declare import (
    Column,
    Drift,
    Feature,
    Features,
    FunctionModel,
    Labelled,
    Output,
    Pipeline,
    Publish,
    RegisteredModel,
    Segment,
    Source,
    SqlModel,
)

SALES = Source(
    name="sales",
    columns=(Column("customer", "string"), Column("day", "date"), Column("amount", "double")),
    event_time="day",
    start=date(2026, 1, 1),
    end=date(2026, 1, 6),
)


def spent_so_far(events: Mapping[str, Any]) -> Any:
    """Spent up to the day, and how often."""
    from pyspark.sql import functions as F

    totals = (F.sum("amount").alias("spent"), F.count("*").alias("times"))
    return events["sales"].groupBy("customer", "as_of").agg(*totals)


def a_day(features: Mapping[str, Any]) -> Any:
    """What is spent at a time."""
    return np.round(features["spent"] / np.maximum(features["times"], 1), 2)


COMMON: dict[str, Any] = {
    "key": ("customer",),
    "sources": (SALES,),
    "features": Features(compute=spent_so_far, columns=(Feature("spent"), Feature("times"))),
    "drift": Drift(report_rows=0),
}

ruled = Pipeline(
    name="ruled",
    model=FunctionModel(a_day),
    outputs=(Output("at_a_time", minimum=0.0),),
    segments=(Segment("size", of="at_a_time", bounds=(15.0,), labels=("small", "large")),),
    publish=Publish(max_psi=None),
    **COMMON,
)

unpublished = Pipeline(
    name="unpublished",
    model=SqlModel("spent / greatest(times, 1)"),
    outputs=(Output("at_a_time"),),
    publish=None,
    **COMMON,
)

foreign = Pipeline(
    name="foreign",
    model=RegisteredModel(
        "models:/spend_model@production",
        judged_on=Labelled("labelled_spend", "next_day"),
        floors={"mae": 7.0},
        returns={"next_spend": "prediction"},
    ),
    outputs=(Output("next_spend"),),
    publish=Publish(max_psi=None),
    **COMMON,
)
