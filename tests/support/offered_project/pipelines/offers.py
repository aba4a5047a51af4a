"""Offers for a household, ranked by what it is likely to take."""

from collections.abc import Mapping
from typing import Any

from forecache.declare import (
    Baseline,
    Candidates,
    Column,
    EstimatorModel,
    Examples,
    Feature,
    Gate,
    Lookup,
    OrderGiven,
    Realtime,
    RequestField,
    Source,
)
from offered_project.transforms import FEATURES, offered
from offered_project.views import START, household, pair, product, taste

SHOWN = Source(
    name="shown",
    columns=(
        Column("request_id", "string", required=True),
        Column("household_id", "bigint", required=True),
        Column("channel", "string", required=False),
        Column("place", "int", required=True),
        Column("product_id", "string", required=True),
        Column("price", "double", required=True),
        Column("taken", "int"),
        Column("asked_at", "timestamp", required=True),
    ),
    event_time="asked_at",
    start=START,
)


def examples(rows: Mapping[str, Any], first: Any, last: Any) -> Any:
    """What was shown, and whether it was taken."""
    from pyspark.sql import functions as F

    shown = rows["shown"]
    return shown.select(
        "request_id",
        F.col("asked_at").alias("event_timestamp"),
        F.col("place").alias("position"),
        "household_id",
        "channel",
        "asked_at",
        "product_id",
        "price",
        "taken",
    )


def ranker() -> Any:
    from lightgbm import LGBMRanker

    return LGBMRanker(n_estimators=40, num_leaves=7, min_child_samples=5, verbose=-1)


offers = Realtime(
    name="offers",
    request=(
        RequestField("household_id", "bigint"),
        RequestField("channel", "string", default="web"),
        RequestField("asked_at", "timestamp"),
    ),
    candidates=Candidates((RequestField("product_id", "string"), RequestField("price", "double")), most=12),
    lookups=(Lookup(household), Lookup(product), Lookup(pair), Lookup(taste, name="tastes")),
    transform=offered,
    features=tuple(map(Feature, FEATURES)),
    model=EstimatorModel(ranker, patience=20),
    output="score",
    fallbacks=(OrderGiven(),),
    examples=Examples(
        (SHOWN,), examples, "taken", "ranking", train_days=6, validation_days=2, test_days=2, horizon_days=1
    ),
    gate=Gate("ndcg@5", {"ndcg@5": 0.3}, baseline=(Baseline("popularity"), Baseline("price", scale=-1.0))),
)
