"""The transform: low bits of whole numbers, the sign of zero, code points of texts, moments to the microsecond."""

import zlib

import numpy as np

from forecache.declare.realtime.request_rows import Rows

FEATURES = (
    "low_bits", "high_bits", "weight", "weight_sign", "gold", "city", "city_size", "second", "microsecond", "day",
    "product", "price", "price_sign", "price_root", "stock", "spend", "visits", "popularity", "known", "mixed",
    "chosen",
)  # fmt: skip


def mixed(rows: Rows) -> np.ndarray:
    """float32 [n, 21]; the last one says which of the others the model `chosen_feature` gives back."""
    household, weight, price, stock = rows["household_id"], rows["weight"], rows["price"], rows["stock"]
    spend, popularity = rows.feature("household", "spend_28d"), rows.feature("product", "popularity")
    at, on = rows["at"], rows["on"]
    microseconds = at.astype("datetime64[us]").astype(np.int64)
    columns = [
        household % 1021,
        household >> 44,
        weight,
        np.copysign(1.0, weight),
        rows["gold"],
        _hashes(rows["city"]),
        np.array([len(text) for text in rows["city"].tolist()]),
        microseconds // 1_000_000 % 86_400,
        microseconds % 1_000_000,
        on.astype("datetime64[D]").astype(np.int64),
        _hashes(rows["product_id"]),
        price,
        np.copysign(1.0, price),
        np.sqrt(np.abs(price)) / 3,
        stock % 4093,
        spend,
        rows.feature("household", "visits_28d"),
        popularity,
        rows.found("product").astype(np.float32) + 2 * rows.found("household"),
        spend * np.float32(1 / 3) + popularity.astype(np.float64) * weight,
        rows["chosen"],
    ]
    return np.column_stack([column.astype(np.float32) for column in columns])


def _hashes(texts: np.ndarray) -> np.ndarray:
    return np.array([zlib.crc32(text.encode()) % 65_521 for text in texts.tolist()])
