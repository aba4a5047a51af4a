"""A night has a row for every customer, and every payment refreshes the row of its customer."""

from collections.abc import Mapping
from typing import Any

import bench_payments
import numpy as np

from forecache.declare import FeatureView, Output, Pipeline, Publish, Window
from forecache.declare.features.live import Live
from forecache.declare.models.applied import FunctionModel
from forecache.declare.stream import LiveRows, Stream, Table

OPEN = Publish(max_row_change=None, max_psi=None, max_null_share=1.0, keep=3, max_age_h=24 * 365)

payments_source = bench_payments.payments_source()
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
    topic=bench_payments.payments_topic(payments_source),
    views=(customer,),
    answers=spending,
    to=(Table(), LiveRows()),
    engine=bench_payments.ENGINE,
    freshness=bench_payments.FRESHNESS,
)
