"""The purchases of the CDNOW customers: the source, and the view of features that the pipelines share."""

from datetime import date, timedelta
from pathlib import Path

from forecache import Column, Feature, Features, FeatureView, Source, expect, load_settings

FIRST_DAY, LAST_DAY = date(1997, 1, 1), date(1998, 6, 30)
"""The days of the data as they were published."""


def shift_file(home: Path) -> Path:
    """The file with the days by which `make demo` has moved all dates of a home; without it, nothing is moved."""
    return home / "cdnow_shift_days"


def read_shift(home: Path) -> timedelta:
    file = shift_file(home)
    return timedelta(days=int(file.read_text())) if file.exists() else timedelta()


SHIFT = read_shift(load_settings().home_path)

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
    start=FIRST_DAY + SHIFT,
    end=LAST_DAY + SHIFT,
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


def _windows() -> str:
    """Columns of the days with a purchase in each window, and of what was spent on them."""
    return ",\n        ".join(
        f"count(*) filter (where age < {days}) as purchases_{days}d, "
        f"coalesce(sum(amount) filter (where age < {days}), 0.0) as amount_{days}d"
        for days in WINDOWS_DAYS
    )


PURCHASE_SQL = f"""
    with days as (  -- on which a customer bought something
        select customer_id, as_of, event_day, date_diff('day', event_day, as_of) as age,
            sum(amount) as amount, sum(quantity) as quantity, count(*) as purchases
        from purchases
        group by customer_id, as_of, event_day
    ),
    gaps as (
        select *, event_day - lag(event_day) over (partition by customer_id order by event_day) as gap from days
    ),
    totals as (
        select customer_id, as_of,
            min(age) as recency_days,
            max(age) as tenure_days,
            count(*) as frequency,
            sum(amount) as monetary,
            sum(amount) / sum(purchases) as mean_amount,
            sum(quantity) / sum(purchases) as mean_quantity,
            avg(gap) as gap_mean_days,
            max(gap) as gap_max_days,
            avg(if(isodow(event_day) >= 6, 1, 0)) as weekend_share,
            avg(if(day(event_day) <= 10, 1, 0)) as month_start_share,
            {_windows()}
        from gaps
        group by customer_id, as_of
    )
    select *,
        purchases_30d / greatest(purchases_90d, 1) as trend_30d,
        purchases_90d / greatest(purchases_180d, 1) as trend_90d,
        recency_days / gap_mean_days as gap_ratio
    from totals
"""
"""PURCHASE_FEATURES of each customer: from the days with a purchase, and the gaps between them."""


CUSTOMER = FeatureView(
    name="customer",
    description="What a customer has bought: how long ago, how often, for how much.",
    key=("customer_id",),
    sources=(PURCHASES,),
    features=Features(
        columns=PURCHASE_FEATURES,
        sql=PURCHASE_SQL,
        expectations=(expect("expect_column_values_to_be_between", column="recency_days", min_value=0),),
    ),
)
