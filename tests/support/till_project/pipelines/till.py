"""What a customer spends the next day."""

from collections.abc import Mapping
from datetime import date
from typing import Any

from forecache.declare import (
    Baseline,
    Column,
    Drift,
    EstimatorModel,
    Feature,
    Features,
    Gate,
    Label,
    Output,
    Pipeline,
    Publish,
    Segment,
    Source,
    Training,
)
from till_project.helpers import net

SALES = Source(
    name="sales",
    columns=(Column("customer", "string"), Column("day", "date"), Column("amount", "double")),
    event_time="day",
    start=date(2026, 1, 1),
    end=date(2026, 1, 6),
)


def spent_so_far(events: Mapping[str, Any]) -> Any:
    """Spent up to the day."""
    from pyspark.sql import functions as F

    return events["sales"].groupBy("customer", "as_of").agg(F.sum(net(F.col("amount"))).alias("spent"))


def spends_next_day(entities: Any, events: Mapping[str, Any]) -> Any:
    from pyspark.sql import functions as F

    return events["sales"].groupBy("customer", "as_of").agg(F.sum("amount").alias("next_day"))


def ridge() -> Any:
    from sklearn.linear_model import Ridge

    return Ridge()


till = Pipeline(
    name="till",
    key=("customer",),
    sources=(SALES,),
    features=Features(compute=spent_so_far, columns=(Feature("spent"),)),
    label=Label(name="next_day", kind="regression", horizon_days=1, compute=spends_next_day),
    model=EstimatorModel(build=ridge),
    training=Training(num_as_of=1, every_days=1),
    outputs=(Output("next_spend", maximum=1000.0),),
    segments=(Segment("size", of="next_spend", bounds=(25.0,), labels=("small", "large")),),
    gate=Gate("mae", floors={"mae": 900.0}, baseline=Baseline("spent"), baseline_margin=-1e6, max_latency_ms=1e6),
    publish=Publish(max_psi=None),
    drift=Drift(report_rows=0),
)
