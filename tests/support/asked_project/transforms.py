"""Transforms, and a model that is a function."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from asked_project import scales
from forecache import Rows


def ranked(rows: Rows) -> np.ndarray:
    """[spend of the household, popularity of the product, price]."""
    spend, popularity = rows.feature("household", "spend_28d"), rows.feature("product", "popularity")
    return np.column_stack([spend, popularity, scales.price(rows["price"])])


def paid(rows: Rows) -> np.ndarray:
    """[amount, spend of the household]."""
    return np.column_stack([rows["amount"], rows.feature("household", "spend_28d")])


def suspicion(features: Mapping[str, Any]) -> np.ndarray:
    return features["amount"] / (1 + np.nan_to_num(features["spend_28d"]))


def reversed_price(rows: Rows) -> np.ndarray:
    """As `ranked`, with another price."""
    spend, popularity = rows.feature("household", "spend_28d"), rows.feature("product", "popularity")
    return np.column_stack([spend, popularity, -scales.price(rows["price"])])
