"""Trips: what a rider spends the next day. Amounts are quarters, so that their sums are the same in any order."""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

from forecache.declare import (
    Baseline,
    Column,
    Drift,
    Feature,
    Features,
    Gate,
    Label,
    Output,
    Pipeline,
    Segment,
    Source,
    TorchModel,
    Training,
)

START, NUM_DAYS, NUM_RIDERS = date(2026, 1, 1), 6, 300
DAYS = [START + timedelta(days=i) for i in range(NUM_DAYS)]

TRIPS = Source(
    name="trips",
    columns=(Column("rider", "string"), Column("day", "date"), Column("amount", "double", minimum=0)),
    event_time="day",
    start=DAYS[0],
    end=DAYS[-1],
)


def landing_file(day: date) -> str:
    """Every rider's trip of a day, and a row that belongs into quarantine."""
    number = (day - START).days
    rows = [f"r{i:04d},{day},{i % 17 + (i * 7 + number * 3) % 5 / 4}" for i in range(NUM_RIDERS)]
    return "\n".join(["rider,day,amount", *rows, f"r9999,{day},-1"]) + "\n"


def spent_so_far(events: Mapping[str, Any]) -> Any:
    from pyspark.sql import functions as F

    return events["trips"].groupBy("rider", "as_of").agg(F.sum("amount").alias("spent"), F.max("amount").alias("most"))


def spends_next_day(entities: Any, events: Mapping[str, Any]) -> Any:
    from pyspark.sql import functions as F

    totals = events["trips"].groupBy("rider", "as_of").agg(F.sum("amount").alias("next_day"))
    return entities.join(totals, ["rider", "as_of"], "left").fillna(0.0, ["next_day"])


def network(num_features: int) -> Any:
    from torch import nn

    return nn.Sequential(nn.Linear(num_features, 8), nn.ReLU(), nn.Linear(8, 1))


trips = Pipeline(
    name="trips",
    key=("rider",),
    sources=(TRIPS,),
    features=Features(compute=spent_so_far, columns=(Feature("spent"), Feature("most"))),
    label=Label(name="next_day", kind="regression", horizon_days=1, compute=spends_next_day),
    model=TorchModel(build=network),
    training=Training(num_as_of=2, every_days=1, epochs=20, batch_size=64, learning_rate=0.05),
    outputs=(Output("next_spend"),),
    segments=(Segment("rider_class", of="next_spend", bounds=(8.0,), labels=("light", "heavy")),),
    gate=Gate(metric="mae", floors={"mae": 8.0}, baseline=Baseline("spent")),
    drift=Drift(report_rows=0),
)
