"""What households and products did, published for look-up: windows, a pair of keys, and a vector."""

from collections.abc import Mapping
from datetime import date
from typing import Any

from forecache.declare import Column, Feature, Features, FeatureView, Publish, Source, Window

START = date(2026, 1, 1)
VISITS = Source(
    name="visits",
    columns=(
        Column("household_id", "bigint", required=True),
        Column("product_id", "string", required=True),
        Column("spend", "double", required=False),
        Column("day", "date", required=True),
    ),
    event_time="day",
    start=START,
)
OPEN = Publish(max_row_change=None, max_psi=None, max_null_share=1.0)


def tastes(rows: Mapping[str, Any]) -> Any:
    """Of each household visits and spend since ever, and the last product as a number that is null for some."""
    from pyspark.sql import functions as F

    seen = rows["visits"].groupBy("household_id", "as_of")
    last = F.max_by("product_id", F.struct("day", "product_id"))
    return seen.agg(
        F.array(F.count("*").cast("float"), F.sum("spend").cast("float")).alias("taste"),
        F.nullif(F.substring(last, 2, 9).cast("int"), F.lit(3)).alias("last_product"),
    )


household = FeatureView(
    name="household",
    key=("household_id",),
    sources=(VISITS,),
    windows=(Window("spend_3d", "sum", 3, "spend"), Window("visits_7d", "count", 7)),
    publish=OPEN,
)
product = FeatureView(
    name="product", key=("product_id",), sources=(VISITS,), windows=(Window("popularity", "count", 7),), publish=OPEN
)
pair = FeatureView(
    name="pair",
    key=("household_id", "product_id"),
    sources=(VISITS,),
    windows=(Window("bought", "count", 7),),
    publish=OPEN,
)
taste = FeatureView(
    name="taste",
    key=("household_id",),
    sources=(VISITS,),
    features=Features((Feature("last_product"), Feature("taste", type="vector", size=2)), tastes),
    publish=OPEN,
)
