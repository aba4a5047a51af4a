"""How likely a departure is late, by LightGBM, and which carrier to take, by a rule."""

from collections.abc import Mapping
from datetime import date
from typing import Any

from departures_project.functions import carrier_features, late_features, punctual
from departures_project.views import CARRIER, DEPARTURES
from forecache.declare import (
    Baseline,
    Candidates,
    Default,
    EstimatorModel,
    Examples,
    Feature,
    FunctionModel,
    Gate,
    Lookup,
    OrderGiven,
    Precomputed,
    Realtime,
    RequestField,
    Stored,
)


def past_departures(sources: Mapping[str, Any], first: date, last: date) -> Any:
    """Each departure as a request that was made when it was scheduled."""
    from pyspark.sql import functions as F

    landed = sources["departures"].where(F.col("event_day").between(first, last)).where("arrival_delay is not null")
    return landed.select(
        F.col("departure_id").alias("request_id"),
        F.col("scheduled_at").alias("event_timestamp"),
        F.lit(0).alias("position"),
        "carrier",
        "number",
        "scheduled_at",
        "distance",
        (F.col("arrival_delay") > 15).cast("double").alias("is_late"),
    )


def boosting() -> Any:
    from lightgbm import LGBMClassifier

    return LGBMClassifier(n_estimators=30, num_leaves=7, verbose=-1)


late = Realtime(
    name="late",
    request=(
        RequestField("carrier", "string"),
        RequestField("number", "bigint"),
        RequestField("scheduled_at", "timestamp"),
        RequestField("distance", "double", default=1000.0),
    ),
    lookups=(Lookup(CARRIER),),
    transform=late_features,
    features=tuple(map(Feature, ("late_share", "mean_delay", "hour", "miles", "last_digits"))),
    model=EstimatorModel(boosting, patience=10),
    output="late_probability",
    examples=Examples(
        (DEPARTURES,), past_departures, label="is_late", kind="binary", train_days=8, validation_days=2, test_days=3
    ),
    gate=Gate(metric="roc_auc", floors={"roc_auc": 0.52}, baseline=Baseline("miles"), max_latency_ms=100.0),
    fallbacks=(Precomputed(Stored("carrier", ("carrier",), "late_7d")), Default(0.2)),
    deadline_ms=60_000.0,
)
choice = Realtime(
    name="choice",
    request=(),
    candidates=Candidates((RequestField("carrier", "string"), RequestField("fare", "double", default=100.0))),
    lookups=(Lookup(CARRIER),),
    transform=carrier_features,
    features=(Feature("late_share"), Feature("fare")),
    model=FunctionModel(punctual),
    fallbacks=(OrderGiven(),),
    deadline_ms=60_000.0,
)
