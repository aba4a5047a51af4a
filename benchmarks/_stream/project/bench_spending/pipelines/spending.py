"""A night has a row for every customer, and every payment refreshes the row of its customer."""

import os
from collections.abc import Mapping
from datetime import date
from typing import Any

import numpy as np

from forecache.pipeline import Column, FeatureView, Output, Pipeline, Publish, Source, Window
from forecache.pipeline.models.applied import FunctionModel
from forecache.pipeline.streams.live import Live
from forecache.pipeline.streams.results import LiveRows, Table
from forecache.pipeline.streams.stream import Stream
from forecache.pipeline.streams.topic import Topic

START = date(2026, 1, 1)
OPEN = Publish(max_row_change=None, max_psi=None, max_null_share=1.0, keep=3, max_age_h=24 * 365)

payments_source = Source(
    "payments",
    columns=(
        Column("transaction_id", "bigint"),
        Column("customer_id", "bigint"),
        Column("terminal_id", "bigint"),
        Column("at", "timestamp"),
        Column("amount", "double"),
    ),
    event_time="at",
    unique=("transaction_id",),
    start=START,
)
payments = Topic("payments", topic="payments", source=payments_source)
customer = FeatureView(
    "customer",
    ("customer_id",),
    (payments_source,),
    windows=(Window("spent_30d", "sum", days=30, column="amount"),),
    active_days=30,
    publish=OPEN,
    live=Live(),
)


def spent(features: Mapping[str, Any]) -> np.ndarray:
    """What the customer has spent: amounts are above 0, so that it only grows."""
    return np.nan_to_num(features["spent_30d"])


spending = Pipeline(
    name="spending",
    key=("customer_id",),
    features=customer,
    model=FunctionModel(spent),
    outputs=(Output("spent"),),
    publish=OPEN,
)
followed = Stream(
    "followed",
    topic=payments,
    views=(customer,),
    answers=spending,
    to=(Table(), LiveRows(keep_h=24)),
    engine=os.environ.get("BENCH_ENGINE", "arrow"),  # type: ignore[arg-type]
    freshness=os.environ.get("BENCH_FRESHNESS", "event"),  # type: ignore[arg-type]
)
