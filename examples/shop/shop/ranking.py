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
    "bought_28d": "",
    "bought_91d": "",
    "bought_364d": "",
    "share_91d": "The same, of its purchases in the category.",
    "share_364d": "",
    "kind_91d": "Purchases of such products by the household.",
    "kind_share_364d": "The same, of its purchases in the category.",
    "category_28d": "Purchases of the category by the household.",
    "category_91d": "",
    "category_364d": "",
    "popularity": "Sales of the product in 28 days.",
    "popularity_rank": "Candidates that are sold more often.",
    "popularity_share": "Sales of the product, of those of all candidates.",
    "sold_91d": "",
    "trend": "Sales of a week, of those of four.",
    "store_popularity": "Sales of the product in the store in 91 days.",
    "store_rank": "Candidates that the store sells more often.",
    "store_share": "Sales of the product, of those of all candidates, in the store.",
    "store_28d": "",
    "store_364d": "",
}
# Of counts that contain each other: a purchase counts 1 for a week, then 0.75, 0.45 after a month, 0.1 after a quarter.
_RECENT = tuple(map(np.float32, (0.25, 0.3, 0.35, 0.1)))
_LESS = np.float32(0.04)  # than a difference of repeat purchases


def search_features(rows: "Rows") -> Floats:
    """float32 [candidates, len(FEATURES)], in their order. What is not in a view was never bought: its counts are 0."""
    bought = [_counts(rows, "household_product", f"bought_{days}d") for days in (7, 28, 91, 364)]
    kind = [_counts(rows, "household_kind", f"bought_{days}d") for days in (91, 364)]
    category = [_counts(rows, "household_category", f"bought_{days}d") for days in (28, 91, 364)]
    sold = [_counts(rows, "product", f"sold_{days}d") for days in (7, 28, 91)]
    popularity = _share(sold[1], sold[1].sum())
    repeat = sum((weight * counts for weight, counts in zip(_RECENT, bought, strict=True)), start=_LESS * popularity)
    in_store = [_counts(rows, "store_product", f"sold_{days}d") for days in (28, 91, 364)]
    columns = [
        repeat,
        _rank(repeat),
        *bought,
        _share(bought[2], category[1]),
        _share(bought[3], category[2]),
        kind[0],
        _share(kind[1], category[2]),
        *category,
        sold[1],
        _rank(sold[1]),
        popularity,
        sold[2],
        _share(sold[0], sold[1]),
        in_store[1],
        _rank(in_store[1]),
        _share(in_store[1], in_store[1].sum()),
        in_store[0],
        in_store[2],
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
