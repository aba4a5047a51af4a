"""How likely a card payment is a fraud: asked over HTTP, and of every payment in the stream."""

from collections.abc import Mapping
from datetime import date
from typing import Any

from cards.scoring import FEATURES, payment_features
from cards.sources import AS_THEY_HAPPEN, PAYMENTS
from cards.views import CUSTOMER, LABEL_DAYS, TERMINAL
from forecache import (
    Baseline,
    Default,
    EstimatorModel,
    Examples,
    Feature,
    Gate,
    Lookup,
    Precomputed,
    Realtime,
    RequestField,
    Stored,
    Stream,
)


def past_payments(sources: Mapping[str, Any], first: date, last: date) -> Any:
    """Each payment as it was asked about, and whether it was a fraud."""
    from pyspark.sql import functions as F

    payments = sources["card_payments"].where(F.col("event_day").between(first, last))
    return payments.select(
        F.col("transaction_id").cast("string").alias("request_id"),
        F.col("paid_at").alias("event_timestamp"),
        F.lit(0).alias("position"),
        "customer_id",
        "terminal_id",
        "amount",
        "paid_at",
        F.col("fraud").cast("double").alias("fraud"),
    )


def classifier() -> Any:
    from lightgbm import LGBMClassifier

    return LGBMClassifier(
        n_estimators=150,
        learning_rate=0.03,
        num_leaves=15,
        min_child_samples=50,
        colsample_bytree=0.6,
        subsample=0.7,
        subsample_freq=1,
        reg_lambda=5.0,
        max_bin=127,
        num_threads=2,
        verbose=-1,
    )


card_fraud = Realtime(
    name="card_fraud",
    description="How likely a card payment is a fraud.",
    request=(
        RequestField("customer_id", "bigint"),
        RequestField("terminal_id", "bigint"),
        RequestField("amount", "double"),
        RequestField("paid_at", "timestamp"),
    ),
    lookups=(Lookup(CUSTOMER), Lookup(TERMINAL)),
    transform=payment_features,
    features=tuple(Feature(name, description) for name, description in FEATURES.items()),
    model=EstimatorModel(classifier, patience=None),
    output="fraud_score",
    examples=Examples(
        sources=(PAYMENTS,),
        compute=past_payments,
        label="fraud",
        kind="binary",
        train_days=7,
        validation_days=7,
        test_days=7,
        horizon_days=LABEL_DAYS,
    ),
    gate=Gate(
        metric="average_precision", floors={"average_precision": 0.5}, baseline=Baseline("terminal_fraud_share_7d")
    ),
    fallbacks=(Precomputed(Stored("terminal", ("terminal_id",), "fraud_share_28d")), Default(0.01)),
    deadline_ms=30.0,
)

cards = Stream(
    name="cards",
    topic=AS_THEY_HAPPEN,
    views=(CUSTOMER, TERMINAL),
    answers=card_fraud,
    engine="arrow",
    freshness="event",
    keep_features=True,
)
