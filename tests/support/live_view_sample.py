"""A live view with every kind of window, events of it, and its features at a moment in plain Python."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from forecache import Rows
from forecache.base.settings import Settings
from forecache.declare import (
    Baseline,
    Column,
    Default,
    EstimatorModel,
    Examples,
    Feature,
    FeatureView,
    Gate,
    Live,
    Lookup,
    Publish,
    Realtime,
    RequestField,
    Source,
    Where,
    Window,
)

DAY_US, MINUTE_US = 86_400_000_000, 60_000_000
EPOCH = date(1970, 1, 1)
START = date(2026, 1, 1)
PAYMENTS = Source(
    "payments",
    columns=(
        Column("payment", "string"),
        Column("card", "bigint"),
        Column("at", "timestamp"),
        Column("amount", "double", required=False),
        Column("pieces", "bigint", required=False),
        Column("fraud", "int", required=False),
    ),
    event_time="at",
    unique=("payment",),
    start=START,
)
WINDOWS = (
    Window("count_1d", "count", 1),
    Window("fraud_rate_3d_delayed", "mean", 3, "fraud", delay_days=4),
    Window("sum_1d", "sum", 1, "amount"),
    Window("sum_4d", "sum", 4, "amount"),
    Window("sum_20m", "sum", minutes=20, column="amount"),
    Window("mean_4d", "mean", 4, "amount"),
    Window("mean_2d_small", "mean", 2, "pieces", where=(Where("amount", "<", 100.0),)),
    Window("min_4d", "min", 4, "amount"),
    Window("max_2d", "max", 2, "amount"),
    Window("last_4d", "last", 4, "amount"),
    Window("count_20m", "count", minutes=20),
    Window("max_20m", "max", minutes=20, column="amount"),
    Window("last_60m", "last", minutes=60, column="pieces"),
    Window("mean_60m", "mean", minutes=60, column="amount"),
    Window("days_counted_3d_delayed", "count", 3, delay_days=3),
)
VIEW = FeatureView(
    "card_live",
    key=("card",),
    sources=(PAYMENTS,),
    windows=WINDOWS,
    publish=Publish(max_psi=None),
    live=Live(nights=3, tile_minutes=5),
)
AMOUNTS = (0.1, 0.2, -0.1, 1e-11, 1.5, 1e9 + 0.1, -1e9, 3.3333333333333335, 0.0, -0.0, 123456.789, 99.99, None)


@dataclass(frozen=True)
class Payment:
    card: int
    at_us: int
    amount: float | None
    pieces: int | None
    fraud: int | None

    @property
    def day(self) -> int:
        return self.at_us // DAY_US


def us(day: date, minutes: float = 0.0) -> int:
    return (day - EPOCH).days * DAY_US + round(minutes * MINUTE_US)


def random_payments(
    rng: random.Random, first: date, days: int, count: int, *, cards: int = 3, ordered: bool = True
) -> list[Payment]:
    """Payments with distinct times; most near midnight, where tiles and days change."""
    times = set[int]()
    while len(times) < count:
        minutes = rng.choice([rng.uniform(0, 90), rng.uniform(1350, 1440), rng.uniform(0, 1440)])
        times.add(us(first + timedelta(days=rng.randrange(days)), min(minutes, 1439.999)))
    moments = sorted(times)
    if not ordered:
        rng.shuffle(moments)
    return [
        Payment(rng.randrange(cards), at, rng.choice(AMOUNTS), rng.choice([1, 7, -3, None]), rng.choice([0, 1, None]))
        for at in moments
    ]


def table_of(payments: Sequence[Payment]) -> pa.Table:
    moments = [datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=p.at_us) for p in payments]
    return pa.table(
        {
            "payment": pa.array([f"p{p.at_us}" for p in payments], pa.string()),
            "card": pa.array([p.card for p in payments], pa.int64()),
            "at": pa.array(moments, pa.timestamp("us", tz="UTC")),
            "amount": pa.array([p.amount for p in payments], pa.float64()),
            "pieces": pa.array([p.pieces for p in payments], pa.int64()),
            "fraud": pa.array([p.fraud for p in payments], pa.int32()),
        }
    )


def features_at(payments: Sequence[Payment], card: int, at_us: int, view: FeatureView = VIEW) -> list[float] | None:
    """The features of a card at a moment, from the payments given; None where it has none of late."""
    today, tile = at_us // DAY_US, at_us // (5 * MINUTE_US)
    own = [p for p in payments if p.card == card]
    if not any(today - view.longest_window_days < p.day <= today for p in own):
        return None
    found = []
    for window in view.windows:
        if window.minutes:
            seen = [p for p in own if tile - window.minutes // 5 < p.at_us // (5 * MINUTE_US) <= tile]
        else:
            last = today - window.delay_days
            seen = [p for p in own if last - window.days < p.day <= last]
        found.append(_aggregate(window, seen))
    return found


def _aggregate(window: Window, seen: Sequence[Payment]) -> float:
    if window.where:
        seen = [p for p in seen if p.amount is not None and p.amount < 100.0]
    if window.column is None:
        return float(len(seen))
    values = [(p.at_us, getattr(p, window.column)) for p in seen if getattr(p, window.column) is not None]
    numbers = [value + 0.0 for _, value in values]
    if window.aggregate == "sum":
        return _total(numbers)
    if not numbers:
        return math.nan
    if window.aggregate == "mean":
        return _total(numbers) / len(numbers)
    if window.aggregate == "last":
        return max(values)[1] + 0.0
    return {"min": min, "max": max}[window.aggregate](numbers)


def _total(values: Sequence[float]) -> float:
    """The exact sum in steps of 2**-32, as a double."""
    whole = sum(math.floor(value) for value in values)
    part = sum(round((value - math.floor(value)) * 2**32) for value in values)
    return float(whole + (part >> 32)) + float(part & (2**32 - 1)) * 2.0**-32


def land(settings: Settings, payments: Sequence[Payment], days: Sequence[date]) -> None:
    """Landing files of some days, as Parquet."""
    folder = Path(settings.landing_uri) / PAYMENTS.name
    folder.mkdir(parents=True, exist_ok=True)
    for day in days:
        its = [payment for payment in payments if payment.day == (day - EPOCH).days]
        pq.write_table(table_of(its), folder / f"{day}.parquet")


def as_seen(rows: Rows) -> np.ndarray:
    """The transform of a model that sees the view as it is, and the amount that is asked about."""
    return np.column_stack([rows.view(VIEW.name), rows["amount"]]).astype(np.float32)


def asked_payments(rows: Mapping[str, Any], first: Any, last: Any) -> Any:
    """Each payment as the request that it was."""
    from pyspark.sql import functions as F

    return rows["payments"].select(
        F.col("payment").alias("request_id"),
        F.col("at").alias("event_timestamp"),
        "card",
        F.coalesce("amount", F.lit(0.0)).alias("amount"),
        F.coalesce("fraud", F.lit(0)).cast("double").alias("fraud"),
    )


def a_model() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression()


CHECK = Realtime(
    "check",
    request=(RequestField("card", "bigint"), RequestField("amount", "double")),
    lookups=(Lookup(VIEW),),
    transform=as_seen,
    features=tuple(Feature(f"seen_{name}") for name in (*VIEW.served_columns, "amount")),
    model=EstimatorModel(a_model),
    fallbacks=(Default(0.5),),
    examples=Examples(
        (PAYMENTS,),
        asked_payments,
        label="fraud",
        kind="binary",
        train_days=3,
        validation_days=1,
        test_days=1,
        horizon_days=0,
    ),
    gate=Gate("roc_auc", {"roc_auc": 0.5}, baseline=Baseline("seen_count_1d")),
)
