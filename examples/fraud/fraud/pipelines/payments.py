"""The score of a payment, asked for before it is made: by the model, else by what was computed last night."""

from collections.abc import Mapping
from datetime import date
from typing import Any

from forecache import (
    Baseline,
    Default,
    EstimatorModel,
    Examples,
    Feature,
    FunctionModel,
    Gate,
    Log,
    Lookup,
    Output,
    Pipeline,
    Precomputed,
    Publish,
    Realtime,
    RequestField,
    Stored,
)
from fraud.scoring import FEATURES, payment_features, usual_risk
from fraud.sources import PAYMENTS
from fraud.views import SPENDING


def past_payments(sources: Mapping[str, Any], first: date, last: date) -> Any:
    """Each payment as it was asked about, and whether it was a fraud."""
    from pyspark.sql import functions as F

    payments = sources["payments"].where(F.col("event_day").between(first, last))
    return payments.select(
        F.col("payment_id").alias("request_id"),
        F.col("paid_at").alias("event_timestamp"),
        F.lit(0).alias("position"),
        "user_id",
        "amount",
        "country",
        "paid_at",
        F.col("fraud").cast("double").alias("fraud"),
    )


def classifier() -> Any:
    from lightgbm import LGBMClassifier

    return LGBMClassifier(n_estimators=60, num_leaves=7, min_child_samples=20, verbose=-1)


user_risk = Pipeline(
    name="user_risk",
    description="The risk of each user, every night.",
    key=("user_id",),
    features=SPENDING,
    model=FunctionModel(usual_risk),
    outputs=(Output("risk", minimum=0.0, maximum=1.0),),
    publish=Publish(max_age_h=36, on_stale="flag"),
)

fraud = Realtime(
    name="fraud",
    description="How likely a payment is a fraud.",
    request=(
        RequestField("user_id", "bigint"),
        RequestField("amount", "double"),
        RequestField("country", "string", default="home"),
        RequestField("paid_at", "timestamp"),
    ),
    lookups=(Lookup(SPENDING),),
    transform=payment_features,
    features=tuple(Feature(name, description) for name, description in FEATURES.items()),
    model=EstimatorModel(classifier, patience=10),
    output="fraud_score",
    examples=Examples(
        sources=(PAYMENTS,),
        compute=past_payments,
        label="fraud",
        kind="binary",
        train_days=30,
        validation_days=7,
        test_days=14,
        horizon_days=7,
        published_h=4.0,  # the night starts at three o'clock UTC and is done by four
    ),
    gate=Gate(metric="average_precision", floors={"average_precision": 0.3}, baseline=Baseline("times_mean")),
    fallbacks=(Precomputed(Stored("user_risk", ("user_id",), "risk")), Default(0.04)),
    deadline_ms=30.0,
    log=Log("user_id"),
)
