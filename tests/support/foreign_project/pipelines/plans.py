"""Which tariff a customer books next: several classes, of events and a snapshot of the customers.

The region is a category, whose codes the model learns.
"""

from collections.abc import Mapping
from datetime import date
from typing import Any

from forecache.declare import (
    Classes,
    Column,
    Drift,
    EstimatorModel,
    Feature,
    Features,
    Gate,
    Label,
    Pipeline,
    Publish,
    Snapshot,
    Source,
    Training,
)

START, END = date(2026, 1, 1), date(2026, 1, 8)
REGIONS = ("north", "south", "west")
BOOKINGS = Source(
    "bookings",
    (Column("customer", "string"), Column("day", "date"), Column("tariff", "string"), Column("minutes", "double")),
    event_time="day",
    start=START,
    end=END,
)
CUSTOMERS = Source(
    "customers",
    (Column("customer", "string"), Column("region", "string"), Column("age", "int")),
    start=START,
    end=END,
    time=Snapshot(),
    key=("customer",),
    missing="last",
)


def habits(events: Mapping[str, Any]) -> Any:
    from pyspark.sql import functions as F

    used = (
        events["bookings"]
        .groupBy("customer", "as_of")
        .agg(F.avg("minutes").alias("minutes"), F.max("minutes").alias("most"))
    )
    known = events["customers"].select("customer", "as_of", "region", "age")
    return used.join(known, ["customer", "as_of"], "left")


def next_tariff(entities: Any, events: Mapping[str, Any]) -> Any:
    from pyspark.sql import functions as F

    booked = events["bookings"].groupBy("customer", "as_of")
    return booked.agg(F.min_by("tariff", "day").alias("tariff"), F.lit(2.0).alias("importance"))


def trees() -> Any:
    from lightgbm import LGBMClassifier

    return LGBMClassifier(n_estimators=20, min_child_samples=5, verbose=-1)


COLUMNS = (Feature("minutes"), Feature("most"), Feature("region", type="category"), Feature("age", type="integer"))
plans = Pipeline(
    name="plans",
    key=("customer",),
    sources=(BOOKINGS, CUSTOMERS),
    features=Features(compute=habits, columns=COLUMNS),
    label=Label("tariff", "multiclass", 1, next_tariff, weight="importance"),
    model=EstimatorModel(trees),
    training=Training(num_as_of=2, every_days=1),
    outputs=(Classes("next_tariff"),),
    gate=Gate("log_loss", {"accuracy": 0.5}, max_latency_ms=1000.0),
    publish=Publish(max_psi=None),
    drift=Drift(report_rows=0),
)
