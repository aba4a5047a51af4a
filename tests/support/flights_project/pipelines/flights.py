"""How late the flights of a route arrive tomorrow: flights, joined with planes and weather by keys of their own."""

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
    Source,
    Static,
    Training,
)

START, END = date(2013, 1, 1), date(2013, 2, 10)
FLIGHTS = Source(
    "flights",
    (
        Column("day", "date"),
        Column("origin", "string"),
        Column("dest", "string"),
        Column("carrier", "string"),
        Column("tailnum", "string", required=False),
        Column("arr_delay", "double", required=False),
        Column("distance", "double"),
    ),
    event_time="day",
    start=START,
    end=END,
)
WEATHER = Source(
    "weather",
    (
        Column("time_hour", "timestamp"),
        Column("origin", "string"),
        Column("wind_speed", "double", required=False),
        Column("visib", "double", required=False),
    ),
    event_time="time_hour",
    start=START,
    end=END,
)
PLANES = Source(
    "planes",
    (Column("tailnum", "string"), Column("manufacturer", "string"), Column("seats", "int")),
    start=START,
    time=Static(),
    key=("tailnum",),
)


def route_features(rows: Mapping[str, Any]) -> Any:
    from pyspark.sql import functions as F

    age = F.datediff("as_of", "day")
    planes = rows["planes"].select("tailnum", "as_of", "manufacturer", "seats")
    flights = rows["flights"].join(planes, ["tailnum", "as_of"], "left")
    of_route = flights.groupBy("origin", "dest", "as_of").agg(
        F.avg(F.when(age < 7, F.col("arr_delay"))).alias("delay_7d"),
        F.avg(F.when(age < 1, F.col("arr_delay"))).alias("delay_1d"),
        F.count("*").alias("flights"),
        F.avg("seats").alias("seats"),
        F.max("distance").alias("distance"),
        F.mode("carrier", True).alias("carrier"),
        F.mode("manufacturer", True).alias("manufacturer"),
    )
    today = F.datediff("as_of", "event_day") == 0
    weather = rows["weather"].where(today).groupBy("origin", "as_of")
    of_origin = weather.agg(F.max("wind_speed").alias("wind"), F.min("visib").alias("visibility"))
    return of_route.join(of_origin, ["origin", "as_of"], "left")


def delay_tomorrow(entities: Any, rows: Mapping[str, Any]) -> Any:
    from pyspark.sql import functions as F

    late = rows["flights"].where(F.col("arr_delay").isNotNull()).groupBy("origin", "dest", "as_of")
    return late.agg(F.avg("arr_delay").alias("delay"))  # a route without a flight has no label


def trees() -> Any:
    from lightgbm import LGBMRegressor

    return LGBMRegressor(n_estimators=60, learning_rate=0.05, min_child_samples=20, verbose=-1, n_jobs=1)


flights = Pipeline(
    name="flights",
    description="Mean arrival delay of a route's flights on the next day, in minutes.",
    key=("origin", "dest"),
    sources=(FLIGHTS, WEATHER, PLANES),
    features=Features(
        compute=route_features,
        columns=(
            Feature("delay_7d"),
            Feature("delay_1d"),
            Feature("flights", type="integer"),
            Feature("seats"),
            Feature("distance"),
            Feature("wind"),
            Feature("visibility"),
            Feature("carrier", type="category"),
            Feature("manufacturer", type="category"),
        ),
    ),
    label=Label("delay", "regression", 1, delay_tomorrow),
    model=EstimatorModel(trees),
    training=Training(num_as_of=20, every_days=1),
    outputs=(Output("expected_delay"),),
    gate=Gate(
        "mae", {"mae": 40.0}, Baseline("delay_1d"), baseline_margin=-2.0, slices=("carrier",), max_latency_ms=1000.0
    ),
    publish=Publish(max_psi=None),
    drift=Drift(report_rows=0),
)
