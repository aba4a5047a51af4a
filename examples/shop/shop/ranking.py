"""From a search to the model's features: one numpy function, for training and for every answer."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from forecache import Rows

Floats = NDArray[np.float32]
FEATURES: Mapping[str, str] = {
    "repeat": "Purchases of the product by the household, recent ones counting more; equal ones by its sales.",
    "repeat_rank": "Candidates that it bought more often so.",
    "repeat_share": "Repeat purchases of the product, of those of all candidates.",
    "share_364d": "Purchases of the product by the household, of its purchases in the category.",
    "basket_share_364d": "The same, of its baskets with the category.",
    "kind_share_364d": "Its purchases of such products, of those in the category.",
    "maker_share_364d": "Its purchases of the maker's products, of those in the category.",
    "category_364d": "Its purchases in the category.",
    "category_days": "Days since it bought something of the category.",
    "days_since": "Days since it bought the product.",
    "days_since_rank": "Candidates that it bought later.",
    "due": "These days, of those that usually pass between two of its purchases of the product.",
    "popularity": "Sales of the product in 28 days.",
    "popularity_rank": "Candidates that are sold more often.",
    "popularity_share": "Sales of the product, of those of all candidates.",
    "sold_91d": "Sales of the product in 91 days.",
    "trend": "Sales of a week, of those of four.",
    "week_share": "Sales of the product in a week, of those of all candidates.",
    "buyers_364d": "Households that bought the product.",
    "loyalty": "Purchases of the product for each of them.",
    "days_on_sale": "Days since it was first sold, of the last 364.",
    "days_unsold": "Days since it was last sold.",
    "store_popularity": "Sales of the product in the store in 91 days.",
    "store_rank": "Candidates that the store sells more often.",
    "store_share": "Sales of the product, of those of all candidates, in the store.",
    "store_364d": "Sales of the product in the store.",
    "price": "Price of the product, in dollars.",
    "price_of_others": "The same, over the mean of the candidates.",
    "price_of_category": "The same, over what the household pays in the category.",
    "price_of_kind": "The same, over what the household pays for such products.",
    "price_now": "Price of the last week, over that of 91 days.",
    "discount": "Share of the price that was taken off in the last week.",
    "discount_more": "The same, less that of 91 days.",
    "discount_of_others": "The same, less the mean of the candidates.",
}
# Of counts that contain each other: a purchase counts 1 for a week, then 0.75, 0.45 after a month, 0.1 after a quarter.
_RECENT = {7: np.float32(0.25), 28: np.float32(0.3), 91: np.float32(0.35), 364: np.float32(0.1)}
_LESS = np.float32(0.04)  # than a difference of repeat purchases
_CENT = np.float32(0.01)


def search_features(rows: "Rows") -> Floats:
    """float32 [candidates, len(FEATURES)], in their order. What is not in a view was never bought: its counts are 0,
    its days and prices NaN."""
    columns = {**_habits(rows), **_days(rows), **_sales(rows), **_prices(rows)}
    return np.stack([columns[name] for name in FEATURES], axis=1)


def _habits(rows: "Rows") -> dict[str, Floats]:
    bought = {days: _counts(rows, "household_product", f"bought_{days}d") for days in _RECENT}
    in_category = _counts(rows, "household_category", "bought_364d")
    sold = _counts(rows, "product", "sold_28d")
    repeat = sum((weight * bought[days] for days, weight in _RECENT.items()), start=_LESS * _share(sold, sold.sum()))
    return {
        "repeat": repeat,
        "repeat_rank": _rank(repeat),
        "repeat_share": _share(repeat, repeat.sum()),
        "share_364d": _share(bought[364], in_category),
        "basket_share_364d": _share(bought[364], _counts(rows, "household_category", "baskets_364d")),
        "kind_share_364d": _share(_counts(rows, "household_kind", "bought_364d"), in_category),
        "maker_share_364d": _share(_counts(rows, "household_maker", "bought_364d"), in_category),
        "category_364d": in_category,
    }


def _days(rows: "Rows") -> dict[str, Floats]:
    first_sold, last_sold = rows.feature("product", "first_sold"), rows.feature("product", "last_sold")
    first, last = rows.feature("household_product", "first_bought"), rows.feature("household_product", "last_bought")
    times = _counts(rows, "household_product", "days_364d")
    today = np.fmax.reduce(last_sold, initial=np.nan)  # some candidate is sold on nearly every day
    usual = np.where(times > 1, (last - first) / np.maximum(times - 1, 1), np.float32(np.nan))
    return {
        "category_days": today - rows.feature("household_category", "last_bought"),
        "days_since": today - last,
        "days_since_rank": _rank(np.nan_to_num(last)),
        "due": (today - last) / usual,
        "days_on_sale": today - first_sold,
        "days_unsold": today - last_sold,
    }


def _sales(rows: "Rows") -> dict[str, Floats]:
    sold = {days: _counts(rows, "product", f"sold_{days}d") for days in (7, 28, 91, 364)}
    in_store = {days: _counts(rows, "store_product", f"sold_{days}d") for days in (91, 364)}
    buyers = _counts(rows, "product", "buyers_364d")
    return {
        "popularity": sold[28],
        "popularity_rank": _rank(sold[28]),
        "popularity_share": _share(sold[28], sold[28].sum()),
        "sold_91d": sold[91],
        "trend": _share(sold[7], sold[28]),
        "week_share": _share(sold[7], sold[7].sum()),
        "buyers_364d": buyers,
        "loyalty": _share(sold[364], buyers),
        "store_popularity": in_store[91],
        "store_rank": _rank(in_store[91]),
        "store_share": _share(in_store[91], in_store[91].sum()),
        "store_364d": in_store[364],
    }


def _prices(rows: "Rows") -> dict[str, Floats]:
    week, price = (rows.feature("product", f"price_{days}d") for days in (7, 91))
    off_week, off = (rows.feature("product", f"discount_{days}d") for days in (7, 91))
    discount = _ratio(off_week, off_week + week)
    return {
        "price": price,
        "price_of_others": _ratio(price, _mean(price)),
        "price_of_category": _ratio(price, rows.feature("household_category", "price_364d")),
        "price_of_kind": _ratio(price, rows.feature("household_kind", "price_364d")),
        "price_now": _ratio(week, price),
        "discount": discount,
        "discount_more": discount - _ratio(off, off + price),
        "discount_of_others": discount - _mean(discount),
    }


def _counts(rows: "Rows", lookup: str, name: str) -> Floats:
    return np.nan_to_num(rows.feature(lookup, name))


def _share(part: Floats, whole: Floats | np.float32) -> Floats:
    return part / np.maximum(whole, np.float32(1))


def _ratio(price: Floats, other: Floats | np.float32) -> Floats:
    """One amount of dollars over another, which counts as a cent at least."""
    return price / np.maximum(other, _CENT)


def _mean(values: Floats) -> np.float32:
    """Of those that are known; 0 of none."""
    return np.nansum(values) / np.float32(max(np.isfinite(values).sum(), 1))


def _rank(values: Floats) -> Floats:
    """How many candidates have a larger value, float32 [n]."""
    ordered = np.sort(values)
    return (len(values) - np.searchsorted(ordered, values, side="right")).astype(np.float32)
