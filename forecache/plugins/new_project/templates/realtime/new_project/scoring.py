"""From a request and what is looked up to a score, in numpy: the same code for requests and for replaying them."""

from collections.abc import Mapping

import numpy as np

from forecache import Rows


def basket_features(rows: Rows) -> np.ndarray:
    """float32 [1, 2]: orders of the last 28 days, and the basket in usual amounts; NaN for an unknown customer."""
    usual = rows.feature("customer", "mean_amount_28d")
    return np.stack([rows.feature("customer", "orders_28d"), rows["basket"].astype(np.float32) / usual], axis=1)


def accepts(features: Mapping[str, np.ndarray]) -> np.ndarray:
    """Probability of an accepted offer, [n], by a rule. NaN if nothing is known, so that the fallbacks answer."""
    orders, size = features["orders_28d"], features["basket_of_usual"]
    return orders / (orders + 4.0) / (1.0 + np.exp(2.0 * (size - 1.5)))
