"""What search knows of households, products and stores on the evening before: aggregates over days, for look-up."""

from collections.abc import Sequence

from forecache import FeatureView, Publish, Window
from shop.pipelines.recommended import PURCHASES


def _counts(
    name: str, key: tuple[str, ...], word: str, days: Sequence[int], description: str, *more: Window
) -> FeatureView:
    return FeatureView(
        name=name,
        key=key,
        sources=(PURCHASES,),
        windows=tuple(Window(f"{word}_{each}d", "count", each) for each in days) + more,
        publish=Publish(max_age_h=36, on_stale="flag"),
        description=description,
    )


PRODUCT = _counts(
    "product",
    ("product",),
    "sold",
    (7, 28, 91, 364),
    "How often a product is sold, to how many households, since when, and for how much.",
    Window("buyers_364d", "distinct", 364, column="household"),
    Window("first_sold", "min", 364, column="bought_on"),
    Window("last_sold", "max", 364, column="bought_on"),
    Window("price_7d", "mean", 7, column="price"),
    Window("price_91d", "mean", 91, column="price"),
    Window("discount_7d", "mean", 7, column="discount"),
    Window("discount_91d", "mean", 91, column="discount"),
)
STORE_PRODUCT = _counts("store_product", ("store", "product"), "sold", (91, 364), "How often a store sells a product.")
HOUSEHOLD_PRODUCT = _counts(
    "household_product",
    ("household", "product"),
    "bought",
    (7, 28, 91, 364),
    "How often a household bought a product, when first and when last.",
    Window("days_364d", "distinct", 364, column="bought_on"),
    Window("first_bought", "min", 364, column="bought_on"),
    Window("last_bought", "max", 364, column="bought_on"),
)
HOUSEHOLD_MAKER = _counts(
    "household_maker",
    ("household", "category", "maker"),
    "bought",
    (364,),
    "How often a household bought a maker's products of a category.",
)
HOUSEHOLD_KIND = _counts(
    "household_kind",
    ("household", "kind"),
    "bought",
    (364,),
    "How often a household bought products of a kind, and for how much.",
    Window("price_364d", "mean", 364, column="price"),
)
HOUSEHOLD_CATEGORY = _counts(
    "household_category",
    ("household", "category"),
    "bought",
    (364,),
    "How often a household bought products of a category, in how many baskets, when last, and for how much.",
    Window("baskets_364d", "distinct", 364, column="basket"),
    Window("last_bought", "max", 364, column="bought_on"),
    Window("price_364d", "mean", 364, column="price"),
)
