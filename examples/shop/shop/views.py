"""What search knows of households, products and stores on the evening before: counts over days, for look-up."""

from collections.abc import Sequence

from forecache.pipeline import FeatureView, Publish, Window
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
    "How often a product is sold, and to how many households.",
    Window("buyers_364d", "distinct", 364, column="household"),
)
STORE_PRODUCT = _counts(
    "store_product", ("store", "product"), "sold", (28, 91, 364), "How often a store sells a product."
)
HOUSEHOLD_PRODUCT = _counts(
    "household_product",
    ("household", "product"),
    "bought",
    (7, 14, 28, 56, 91, 182, 364),
    "How often a household bought a product.",
)
HOUSEHOLD_KIND = _counts(
    "household_kind", ("household", "kind"), "bought", (91, 364), "How often a household bought products of a kind."
)
HOUSEHOLD_CATEGORY = _counts(
    "household_category",
    ("household", "category"),
    "bought",
    (14, 28, 91, 364),
    "How often a household bought products of a category, and in how many baskets.",
    Window("baskets_364d", "distinct", 364, column="basket"),
)
