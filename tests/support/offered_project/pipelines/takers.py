"""Whether a household takes anything of what it is shown: one value a request, and some requests count twice."""

from collections.abc import Mapping
from typing import Any

from forecache.declare import (
    Baseline,
    Default,
    EstimatorModel,
    Examples,
    Feature,
    Gate,
    Lookup,
    Realtime,
    RequestField,
)
from offered_project.pipelines.offers import SHOWN
from offered_project.transforms import taking
from offered_project.views import household, taste


def requests(rows: Mapping[str, Any], first: Any, last: Any) -> Any:
    """A row for each request."""
    from pyspark.sql import functions as F

    asked = rows["shown"].groupBy("request_id", F.col("asked_at").alias("event_timestamp"), "household_id", "channel")
    return asked.agg(
        F.count("*").alias("shown"),
        F.max("taken").alias("took"),
        F.when(F.col("channel") == "app", 2.0).otherwise(1.0).alias("worth"),
    )


def classifier() -> Any:
    from lightgbm import LGBMClassifier

    return LGBMClassifier(n_estimators=20, num_leaves=4, min_child_samples=5, verbose=-1)


takers = Realtime(
    name="takers",
    request=(
        RequestField("household_id", "bigint"),
        RequestField("channel", "string", default="web"),
        RequestField("shown", "bigint"),
    ),
    lookups=(Lookup(household), Lookup(taste, name="tastes")),
    transform=taking,
    features=(Feature("shown"), Feature("spend_3d"), Feature("visits"), Feature("is_app")),
    model=EstimatorModel(classifier, patience=None),
    output="probability",
    fallbacks=(Default(0.5),),
    examples=Examples(
        (SHOWN,),
        requests,
        "took",
        "binary",
        train_days=8,
        validation_days=2,
        test_days=3,
        horizon_days=0,
        weight="worth",
    ),
    gate=Gate("roc_auc", {"roc_auc": 0.5}, baseline=Baseline("spend_3d")),
)
