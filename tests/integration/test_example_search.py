"""The shop's past searches in Spark: what they hold, and that nothing of their own day or later is in them."""

import random
from collections import Counter, defaultdict
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest
from pyspark import cloudpickle

from forecache.base.settings import PROJECT_ROOT

FIRST, LAST = date(2017, 9, 1), date(2017, 9, 5)
Bought = tuple[int, int, int, str, str, str, int, datetime, date]
"""household, store, basket, product, kind, category, maker, time, day"""


def _bought(rng: random.Random) -> list[Bought]:
    """Baskets of 28 days before, of the days, and of a week after."""
    rows = []
    for basket in range(900):
        day = FIRST + timedelta(days=rng.randint(-28, 11))
        at = datetime(day.year, day.month, day.day, rng.randint(0, 23), tzinfo=timezone.utc)
        for number in {min(rng.randrange(30), rng.randrange(30)) for _ in range(rng.randint(1, 3))}:
            product, kind, maker = f"TEA {number:02d}", f"KIND {number % 3}", number % 4
            rows.append((basket % 40, basket % 5, basket, product, kind, "TEA", maker, at, day))
    return rows


def test_a_search_has_the_best_sellers_before_its_day_and_what_its_basket_held(
    spark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(PROJECT_ROOT / "examples" / "shop"))
    from shop.pipelines import search

    monkeypatch.setattr(search, "_ONE_OF", 1)
    cloudpickle.register_pickle_by_value(search)  # workers do not have the example on their path
    try:
        rows = _bought(random.Random(1))
        names = "household int, store int, basket bigint, product string, kind string, category string, maker int"
        frame = spark.createDataFrame(rows, f"{names}, bought_at timestamp, event_day date")
        found = search.searches({"purchases": frame}, FIRST, LAST).collect()
    finally:
        cloudpickle.unregister_pickle_by_value(search)
    searches: dict[str, list[Any]] = defaultdict(list)
    for row in found:
        searches[row.request_id].append(row)
    baskets: dict[int, list[Bought]] = defaultdict(list)
    for each in rows:
        baskets[each[2]].append(each)
    expected = {}
    for basket, own in baskets.items():
        day = own[0][8]
        before = Counter(row[3] for row in rows if day - timedelta(days=28) <= row[8] < day)
        best = sorted(before, key=lambda product: (-before[product], product))[:50]
        held = {row[3] for row in own}
        if FIRST <= day <= LAST and len(best) >= 10 and held & set(best):
            expected[f"{basket}-TEA"] = [(product, float(product in held)) for product in best]
    assert len(expected) > 50
    for request, of_request in searches.items():
        of_request.sort(key=lambda row: row.position)
        assert [(row.product, row.bought) for row in of_request] == expected[request]
        assert all(row.maker == int(row.product[4:]) % 4 for row in of_request)
        assert len({(row.household, row.store, row.category, row.event_timestamp) for row in of_request}) == 1
    assert searches.keys() == expected.keys()
