"""The purchases of the CDNOW customers: the source, and the view of features that the pipelines share."""

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING

from forecache import Column, Feature, Features, FeatureView, Source, expect

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

PURCHASES = Source(
    name="purchases",
    description="Purchases of CDs by the customers who first bought in the first quarter of 1997, one file a day.",
    columns=(
        Column("customer_id", "string", description="Five digits, with leading zeros."),
        Column("date", "date", description="Day of the purchase, UTC."),
        Column("quantity", "int", minimum=1, description="Number of CDs."),
        Column("amount", "double", minimum=0, description="Value of the purchase in US dollars."),
    ),
    event_time="date",
    start=date(1997, 1, 1),
    end=date(1998, 6, 30),
    expectations=(
        expect("expect_column_values_to_match_regex", column="customer_id", regex=r"^\d{5}$"),
        expect("expect_column_values_to_be_between", column="amount", max_value=5000, severity="warning"),
    ),
)

WINDOWS_DAYS = (7, 30, 90, 180)

PURCHASE_FEATURES = (
    Feature("recency_days", "Days since the last purchase.", log=True),
    Feature("tenure_days", "Days since the first purchase.", log=True),
    Feature("frequency", "Number of days with a purchase.", log=True),
    Feature("monetary", "Total spent, US dollars.", log=True),
    Feature("mean_amount", "Mean value of a purchase, US dollars.", log=True),
    Feature("mean_quantity", "Mean number of CDs in a purchase.", log=True),
    *(Feature(f"purchases_{days}d", f"Purchase days in the last {days} days.", log=True) for days in WINDOWS_DAYS),
    *(Feature(f"amount_{days}d", f"Spent in the last {days} days, US dollars.", log=True) for days in WINDOWS_DAYS),
    Feature("trend_30d", "Share of the last 90 days' purchase days that lie in the last 30."),
    Feature("trend_90d", "Share of the last 180 days' purchase days that lie in the last 90."),
    Feature("gap_mean_days", "Mean days between purchases; null after a single one.", log=True),
    Feature("gap_max_days", "Longest time between purchases in days; null after a single one.", log=True),
    Feature("gap_ratio", "Recency over the mean gap; null after a single purchase.", log=True),
    Feature("weekend_share", "Share of the purchase days that were a Saturday or Sunday."),
    Feature("month_start_share", "Share of the purchase days that were among the first ten of a month."),
)


def purchase_features(events: Mapping[str, "DataFrame"]) -> "DataFrame":
    """PURCHASE_FEATURES of each customer and as-of date, from one aggregation by customer and day and one over it."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    entity = ["customer_id", "as_of"]
    days = events["purchases"].groupBy(*entity, "event_day")
    days = days.agg(F.sum("amount").alias("amount"), F.sum("quantity").alias("quantity"), F.count("*").alias("n"))
    before = F.lag("event_day").over(Window.partitionBy(*entity).orderBy("event_day"))
    days = days.withColumns(
        {
            "gap": F.datediff("event_day", before),
            "is_weekend": (F.weekday("event_day") >= 5).cast("int"),
            "is_month_start": (F.dayofmonth("event_day") <= 10).cast("int"),
        }
    )
    age = F.datediff("as_of", "event_day")

    def within(window_days: int, value: object) -> object:
        return F.coalesce(F.sum(F.when(age < window_days, value)), F.lit(0.0))

    windows = {f"purchases_{d}d": within(d, F.lit(1.0)) for d in WINDOWS_DAYS}
    windows |= {f"amount_{d}d": within(d, F.col("amount")) for d in WINDOWS_DAYS}
    result = days.groupBy(*entity).agg(
        F.min(age).alias("recency_days"),
        F.max(age).alias("tenure_days"),
        F.count("*").alias("frequency"),
        F.sum("amount").alias("monetary"),
        (F.sum("amount") / F.sum("n")).alias("mean_amount"),
        (F.sum("quantity") / F.sum("n")).alias("mean_quantity"),
        F.avg("gap").alias("gap_mean_days"),
        F.max("gap").alias("gap_max_days"),
        F.avg("is_weekend").alias("weekend_share"),
        F.avg("is_month_start").alias("month_start_share"),
        *(column.alias(name) for name, column in windows.items()),  # type: ignore[attr-defined]
    )
    return result.withColumns(
        {
            "trend_30d": F.col("purchases_30d") / F.greatest("purchases_90d", F.lit(1.0)),
            "trend_90d": F.col("purchases_90d") / F.greatest("purchases_180d", F.lit(1.0)),
            "gap_ratio": F.col("recency_days") / F.col("gap_mean_days"),
        }
    )


CUSTOMER = FeatureView(
    name="customer",
    description="What a customer has bought: how long ago, how often, for how much.",
    key=("customer_id",),
    sources=(PURCHASES,),
    features=Features(
        compute=purchase_features,
        columns=PURCHASE_FEATURES,
        expectations=(expect("expect_column_values_to_be_between", column="recency_days", min_value=0),),
    ),
)
