"""Transforms and functions of real-time models in tests."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from forecache.declare.realtime.request_rows import Rows
from ranking_code.scales import log_price


def rank(rows: Rows) -> np.ndarray:
    """[spend, popularity, log of the price, whether the product is known]."""
    spend, popularity = rows.feature("household", "spend_28d"), rows.feature("product", "popularity")
    return np.column_stack([spend, popularity, log_price(rows["price"]), rows.found("product")])


def fraud(rows: Rows) -> np.ndarray:
    """[amount, spend]."""
    return np.column_stack([rows["amount"], rows.feature("household", "spend_28d")])


def two_thirds(features: Mapping[str, Any]) -> np.ndarray:
    return sum(features.values()) * (2 / 3)
