"""The transform of the offers."""

import numpy as np

from forecache import Rows

FEATURES = (
    "popularity",
    "bought",
    "spend_3d",
    "price_share",
    "known_pair",
    "is_app",
    "hour",
    "last_product",
    "visits",
    "spend",
    "price",
)


def offered(rows: Rows) -> np.ndarray:
    """A row for each candidate: what is known of product, household and both, and of the request."""
    price, spend = rows["price"], rows.feature("household", "spend_3d").astype(np.float64)
    hour = (rows["asked_at"] - rows["asked_at"].astype("datetime64[D]")) / np.timedelta64(1, "h")
    return np.column_stack(
        [
            rows.feature("product", "popularity"),
            np.nan_to_num(rows.feature("pair", "bought")),
            spend,
            price / price.max(),
            rows.found("pair"),
            rows["channel"] == "app",
            hour,
            rows.feature("tastes", "last_product"),
            rows.view("tastes")[:, 1:],
            price,
        ]
    ).astype(np.float32)


def taking(rows: Rows) -> np.ndarray:
    """[offers shown, spend of the household, its visits, whether by app]."""
    spend, visits = rows.feature("household", "spend_3d"), rows.feature("tastes", "taste_0")
    return np.column_stack([rows["shown"], spend, visits, rows["channel"] == "app"])


def popular(rows: Rows) -> np.ndarray:
    """[popularity of the product, its price]."""
    return np.column_stack([rows.feature("product", "popularity"), rows["price"]]).astype(np.float32)
