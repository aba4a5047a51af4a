"""A published night of the view of `stream_sample`: some numbers for some of the customers."""

from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
from stream_sample import CUSTOMER, EmptyNight
from view_tables import write_features

from forecache.base.settings import Settings
from forecache.declare.features.live import build_merge_plan
from forecache.serve.store import publish

KNOWN = 3
"""Customers 0, 1 and 2; payments are of 0 to 4."""


def write_customers(settings: Settings) -> None:
    """Write and publish the night that `EmptyNight` is of, with customers that spent on its day and the day before."""
    night, rng = EmptyNight().as_of, np.random.default_rng(4)
    columns: dict[str, Any] = {"customer_id": pa.array(range(KNOWN), pa.int64())}
    columns["as_of"] = pa.array([night] * KNOWN, pa.date32())
    for name in CUSTOMER.feature_names:
        columns[name] = pa.array(rng.normal(size=KNOWN), pa.float64())
    for column in build_merge_plan(CUSTOMER).base_columns:
        numbers = rng.integers(1, 100, KNOWN)
        if column.name == "state_last_day":
            numbers = np.full(KNOWN, (night - date(1970, 1, 1)).days)
        columns[column.name] = pa.array(numbers, pa.float64() if column.is_float else pa.int64())
    write_features(settings, pa.table(columns), night=night, view=CUSTOMER.name)
    publish(settings, CUSTOMER, night=night)
