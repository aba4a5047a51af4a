"""From requests to the models' features, and the rule that is a model without training."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from forecache import Rows


def late_features(rows: Rows) -> np.ndarray:
    of_day = rows["scheduled_at"] - rows["scheduled_at"].astype("datetime64[D]")
    return np.column_stack(
        [
            rows.feature("carrier", "late_7d") / rows.feature("carrier", "flights_7d"),
            rows.feature("carrier", "delay_7d"),
            of_day / np.timedelta64(1, "h"),
            rows["distance"],
            rows["number"] % 100,
        ]
    )


def carrier_features(rows: Rows) -> np.ndarray:
    return np.column_stack([rows.feature("carrier", "late_7d") / rows.feature("carrier", "flights_7d"), rows["fare"]])


def punctual(features: Mapping[str, Any]) -> Any:
    return 1 - features["late_share"] - features["fare"] / 10_000
