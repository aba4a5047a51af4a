"""Three pipelines over one view, a real-time model, and a stream that asks it of each payment."""

from collections.abc import Mapping
from datetime import date
from typing import Any

from _bank.payments import AS_THEY_HAPPEN, PAYMENTS
from _bank.scoring import FEATURES, payment_features, usual_risk, usual_share
from forecache import (
    Baseline,
    Default,
    Drift,
    EstimatorModel,
    Examples,
    Feature,
    FeatureView,
    FunctionModel,
    Gate,
    Guards,
    Label,
    Live,
    LiveRows,
    Log,
    Lookup,
    Output,
    Pipeline,
    Precomputed,
    Publish,
    Realtime,
    RequestField,
    Rollout,
    Stored,
    Stream,
    Table,
    Training,
    Where,
    Window,
)

RULES = Publish(max_age_h=1e6, max_psi=None)

SPENDING = FeatureView(
    name="spending",
    key=("user_id",),
    sources=(PAYMENTS,),
    windows=(
        Window("payments_14d", "count", 14),
        Window("mean_14d", "mean", 14, "amount"),
        Window("abroad_14d", "count", 14, where=(Where("country", "==", "abroad"),)),
    ),
    publish=RULES,
    live=Live(nights=3),
)


def spends_next_day(entities: Any, events: Mapping[str, Any]) -> Any:
    from pyspark.sql import functions as F

    totals = events["payments"].groupBy("user_id", "as_of").agg(F.sum("amount").alias("next_day"))
    return entities.join(totals, ["user_id", "as_of"], "left").fillna(0.0, ["next_day"])


def ridge() -> Any:
    from sklearn.linear_model import Ridge

    return Ridge()


user_risk = Pipeline(
    name="user_risk",
    key=("user_id",),
    features=SPENDING,
    model=FunctionModel(usual_risk),
    outputs=(Output("risk"),),
    publish=RULES,
    drift=Drift(report_rows=0),
)

user_share = Pipeline(
    name="user_share",
    key=("user_id",),
    features=SPENDING,
    model=FunctionModel(usual_share),
    outputs=(Output("share"),),
    publish=RULES,
    drift=Drift(report_rows=0),
)

user_spend = Pipeline(
    name="user_spend",
    key=("user_id",),
    sources=(PAYMENTS,),
    features=SPENDING,
    label=Label(name="next_day", kind="regression", horizon_days=1, compute=spends_next_day),
    model=EstimatorModel(build=ridge),
    training=Training(num_as_of=2, every_days=1),
    outputs=(Output("next_spend"),),
    gate=Gate("mae", floors={"mae": 900.0}, baseline=Baseline("mean_14d"), baseline_margin=-1e6, max_latency_ms=1e6),
    publish=RULES,
    drift=Drift(report_rows=0),
)


def past_payments(sources: Mapping[str, Any], first: date, last: date) -> Any:
    """Each payment as it was asked about, and whether it was a fraud."""
    from pyspark.sql import functions as F

    payments = sources["payments"].where(F.col("event_day").between(first, last))
    return payments.select(
        F.col("payment_id").cast("string").alias("request_id"),
        F.col("paid_at").alias("event_timestamp"),
        F.lit(0).alias("position"),
        "user_id",
        "amount",
        "country",
        F.col("fraud").cast("double").alias("fraud"),
    )


def classifier() -> Any:
    from lightgbm import LGBMClassifier

    return LGBMClassifier(n_estimators=20, num_leaves=5, min_child_samples=10, num_threads=1, verbose=-1)


fraud = Realtime(
    name="fraud",
    request=(
        RequestField("user_id", "bigint"),
        RequestField("amount", "double"),
        RequestField("country", "string", default="home"),
    ),
    lookups=(Lookup(SPENDING),),
    transform=payment_features,
    features=tuple(Feature(name, name) for name in FEATURES),
    model=EstimatorModel(classifier, patience=None),
    output="fraud_score",
    examples=Examples(
        sources=(PAYMENTS,),
        compute=past_payments,
        label="fraud",
        kind="binary",
        train_days=6,
        validation_days=3,
        test_days=3,
        horizon_days=2,
    ),
    gate=Gate(
        metric="average_precision",
        floors={"average_precision": 0.05},
        baseline=Baseline("payments_14d"),
        baseline_margin=-1e6,
        max_latency_ms=1e6,
    ),
    fallbacks=(Precomputed(Stored("user_risk", ("user_id",), "risk")), Default(0.04)),
    deadline_ms=1000.0,
    log=Log("user_id"),
    rollout=Rollout(
        shares=(0.5,),
        shadow_share=0,
        requests=40,
        hours=0,
        guards=Guards(None, None, None, score_level=None, score_spread=None, order=None),
    ),
)

stream_of_payments = Stream(
    name="card_payments",
    topic=AS_THEY_HAPPEN,
    views=(SPENDING,),
    answers=fraud,
    to=(Table(), LiveRows(keep_h=24)),
    engine="arrow",
    keep_features=True,
)
