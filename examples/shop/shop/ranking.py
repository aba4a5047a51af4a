"""From a search to the model's features: one numpy function, for training and for every answer."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from forecache.pipeline import Rows

Floats = NDArray[np.float32]
FEATURES: Mapping[str, str] = {
    "repeat": "Purchases of the product by the household, recent ones counting more; equal ones by its sales.",
    "repeat_rank": "Candidates that it bought more often so.",
    "bought_7d": "Purchases of the product by the household.",
    "bought_14d": "",
    "bought_28d": "",
    "bought_56d": "",
    "bought_91d": "",
    "bought_182d": "",
    "bought_364d": "",
    "repeat_share": "Repeat purchases of the product, of those of all candidates.",
    "share_91d": "The same, of its purchases in the category.",
    "share_364d": "",
    "basket_share_364d": "The same, of its baskets with the category.",
    "kind_91d": "Purchases of such products by the household.",
    "kind_share_364d": "The same, of its purchases in the category.",
    "category_14d": "Purchases of the category by the household.",
    "category_28d": "",
    "category_91d": "",
    "category_364d": "",
    "popularity": "Sales of the product in 28 days.",
    "popularity_rank": "Candidates that are sold more often.",
    "popularity_share": "Sales of the product, of those of all candidates.",
    "sold_91d": "",
    "trend": "Sales of a week, of those of four.",
    "week_share": "Sales of the product in a week, of those of all candidates.",
    "buyers_364d": "Households that bought the product.",
    "loyalty": "Purchases of the product for each of them.",
    "store_popularity": "Sales of the product in the store in 91 days.",
    "store_rank": "Candidates that the store sells more often.",
    "store_share": "Sales of the product, of those of all candidates, in the store.",
    "store_28d": "",
    "store_364d": "",
}
# Of counts that contain each other: a purchase counts 1 for a week, then 0.75, 0.45 after a month, 0.1 after a quarter.
_RECENT = {7: np.float32(0.25), 28: np.float32(0.3), 91: np.float32(0.35), 364: np.float32(0.1)}
_LESS = np.float32(0.04)  # than a difference of repeat purchases


def search_features(rows: "Rows") -> Floats:
    """float32 [candidates, len(FEATURES)], in their order. What is not in a view was never bought: its counts are 0."""
    bought = {days: _counts(rows, "household_product", f"bought_{days}d") for days in (7, 14, 28, 56, 91, 182, 364)}
    kind = {days: _counts(rows, "household_kind", f"bought_{days}d") for days in (91, 364)}
    category = {days: _counts(rows, "household_category", f"bought_{days}d") for days in (14, 28, 91, 364)}
    sold = {days: _counts(rows, "product", f"sold_{days}d") for days in (7, 28, 91, 364)}
    in_store = {days: _counts(rows, "store_product", f"sold_{days}d") for days in (28, 91, 364)}
    buyers = _counts(rows, "product", "buyers_364d")
    popularity = _share(sold[28], sold[28].sum())
    repeat = sum((weight * bought[days] for days, weight in _RECENT.items()), start=_LESS * popularity)
    columns = [
        repeat,
        _rank(repeat),
        *bought.values(),
        _share(repeat, repeat.sum()),
        _share(bought[91], category[91]),
        _share(bought[364], category[364]),
        _share(bought[364], _counts(rows, "household_category", "baskets_364d")),
        kind[91],
        _share(kind[364], category[364]),
        *category.values(),
        sold[28],
        _rank(sold[28]),
        popularity,
        sold[91],
        _share(sold[7], sold[28]),
        _share(sold[7], sold[7].sum()),
        buyers,
        _share(sold[364], buyers),
        in_store[91],
        _rank(in_store[91]),
        _share(in_store[91], in_store[91].sum()),
        in_store[28],
        in_store[364],
    ]
    return np.stack(columns, axis=1)


def _counts(rows: "Rows", lookup: str, name: str) -> Floats:
    return np.nan_to_num(rows.feature(lookup, name))


def _share(part: Floats, whole: Floats | np.float32) -> Floats:
    return part / np.maximum(whole, np.float32(1))


def _rank(values: Floats) -> Floats:
    """How many candidates have a larger value, float32 [n]."""
    ordered = np.sort(values)
    return (len(values) - np.searchsorted(ordered, values, side="right")).astype(np.float32)
