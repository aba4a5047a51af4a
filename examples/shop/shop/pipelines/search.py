"""Search in the shop: the products of a category in the order in which a household is likely to buy them, in time."""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from forecache import (
    Baseline,
    Candidates,
    DotProduct,
    EstimatorModel,
    Examples,
    Feature,
    Gate,
    Log,
    Lookup,
    OrderGiven,
    Precomputed,
    Realtime,
    RequestField,
    Stored,
    Training,
)
from shop.pipelines.recommended import PURCHASES
from shop.ranking import FEATURES, search_features
from shop.views import HOUSEHOLD_CATEGORY, HOUSEHOLD_KIND, HOUSEHOLD_MAKER, HOUSEHOLD_PRODUCT, PRODUCT, STORE_PRODUCT

if TYPE_CHECKING:
    import pyarrow as pa

_MOST, _LEAST, _DAYS = 50, 10, 28
_ONE_OF = 8
"""One basket of so many is learned from and judged by, so that the example runs in minutes."""


def best_sellers(sold: "pa.Table", *, first: date, last: date) -> "pa.Table":
    """Of a category, for each day the products that sold most in the four weeks before it, the best first.

    Args:
        sold: `category`, `event_day`, `product`, `kind`, `maker`, `sold`, for each day from four weeks before `first`.
    """
    import numpy as np
    import pyarrow as pa

    start, num_days = first - timedelta(days=_DAYS), (last - first).days + 1
    products = sold.group_by(["product", "kind", "maker"]).aggregate([]).sort_by("product")
    place = {name: number for number, name in enumerate(products["product"].to_pylist())}
    counts = np.zeros((_DAYS + num_days, len(place)), np.int64)
    for day, product, count in zip(*(sold[name].to_pylist() for name in ("event_day", "product", "sold")), strict=True):
        counts[(day - start).days, place[product]] += count
    until = np.concatenate([np.zeros((1, len(place)), np.int64), np.cumsum(counts, axis=0)])
    in_four_weeks = until[_DAYS:-1] - until[: -1 - _DAYS]
    order = np.argsort(-in_four_weeks, axis=1, kind="stable")[:, :_MOST]
    days, positions = np.nonzero(np.take_along_axis(in_four_weeks, order, axis=1))
    found = products.take(pa.array(order[days, positions]))
    return pa.table(
        {
            "category": pa.repeat(sold["category"][0], len(days)),
            "day": pa.array(np.datetime64(first, "D") + days),
            "product": found["product"],
            "kind": found["kind"],
            "maker": found["maker"],
            "position": pa.array(positions, pa.int32()),
        }
    )


def searches(sources: Mapping[str, Any], first: date, last: date) -> Any:
    """A search for each category of a basket. Its candidates are the category's best sellers of the four weeks before
    the day, the best first; those that are in the basket are what the household was looking for."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    purchases = sources["purchases"]
    before = purchases.where(F.col("event_day") < last)
    sold = before.groupBy("event_day", "category", "product", "kind", "maker").agg(F.count("*").alias("sold"))
    candidates = sold.groupBy("category").applyInArrow(
        lambda of_category: best_sellers(of_category, first=first, last=last),
        "category string, day date, product string, kind string, maker int, position int",
    )
    made = purchases.where(F.col("event_day").between(first, last) & (F.xxhash64("basket") % _ONE_OF == 0))
    made = made.groupBy("basket", "category").agg(
        F.first("household").cast("bigint").alias("household"),
        F.first("store").cast("bigint").alias("store"),
        F.min("bought_at").alias("event_timestamp"),
        F.collect_set("product").alias("products"),
        F.min("event_day").alias("day"),
    )
    rows = made.join(candidates, ["day", "category"]).withColumn(
        "bought", F.array_contains("products", F.col("product")).cast("double")
    )
    search = Window.partitionBy("basket", "category")
    rows = rows.withColumn("candidates", F.count("*").over(search)).withColumn("found", F.max("bought").over(search))
    return rows.where((F.col("candidates") >= _LEAST) & (F.col("found") > 0)).select(
        F.concat_ws("-", "basket", "category").alias("request_id"),
        "event_timestamp",
        "position",
        "household",
        "store",
        "category",
        "product",
        "kind",
        F.col("maker").cast("bigint").alias("maker"),
        "bought",
    )


def ranker() -> Any:
    """LambdaMART (Burges, "From RankNet to LambdaRank to LambdaMART", 2010)."""
    from lightgbm import LGBMRanker

    return LGBMRanker(
        n_estimators=150,
        learning_rate=0.08,
        num_leaves=15,
        min_child_samples=100,
        lambdarank_truncation_level=12,
        num_threads=2,
        verbose=-1,
    )


search = Realtime(
    name="search",
    description="Ranks the products that a search found by how likely the household is to buy them.",
    request=(
        RequestField("household", "bigint", description="Who searches."),
        RequestField("store", "bigint", description="Where it shops."),
        RequestField("category", "string", description="What it looks for."),
    ),
    candidates=Candidates(
        (
            RequestField("product", "string"),
            RequestField("kind", "string", default="unknown"),
            RequestField("maker", "bigint", default=0),
        ),
        most=200,
    ),
    lookups=(
        Lookup(HOUSEHOLD_PRODUCT),
        Lookup(HOUSEHOLD_KIND),
        Lookup(HOUSEHOLD_MAKER),
        Lookup(HOUSEHOLD_CATEGORY),
        Lookup(PRODUCT),
        Lookup(STORE_PRODUCT),
    ),
    transform=search_features,
    features=tuple(Feature(name, description) for name, description in FEATURES.items()),
    model=EstimatorModel(ranker, patience=None),  # a week of searches is too few to tell the best round by
    training=Training(),
    examples=Examples(
        sources=(PURCHASES,),
        compute=searches,
        label="bought",
        kind="ranking",
        train_days=42,
        validation_days=7,
        test_days=14,
        horizon_days=7,  # an outcome is final when goods can no longer be returned
        history_days=_DAYS,
        published_h=4.0,  # the night starts at three o'clock UTC and is done by four
    ),
    gate=Gate(
        metric="ndcg@10",
        floors={"ndcg@10": 0.55},
        baseline=(
            Baseline("repeat", description="what the household bought, recent purchases counting more"),
            Baseline("store_popularity", description="what the store sells most"),
            Baseline("popularity", description="what is sold most"),
        ),
    ),
    fallbacks=(
        DotProduct(Stored("tastes_user_vectors", ("household",)), Stored("tastes_item_vectors", ("product",))),
        Precomputed(Stored("product", ("product",), "sold_28d")),
        OrderGiven(),
    ),
    deadline_ms=50.0,
    log=Log("household"),
)
