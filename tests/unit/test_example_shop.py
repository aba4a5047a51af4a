"""The shop's search: its candidates, its features written out by hand, and that its declaration loads."""

import random
from collections import Counter
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from forecache.base.settings import PROJECT_ROOT, load_settings
from forecache.declare.loading import read_project
from forecache.declare.realtime.request_rows import Rows

FIRST, LAST = date(2017, 9, 1), date(2017, 9, 4)


@pytest.fixture(autouse=True)
def _project(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("shop", "fraud"):
        monkeypatch.syspath_prepend(str(PROJECT_ROOT / "examples" / name))


@pytest.mark.parametrize(("project", "model"), [("shop", "search"), ("fraud", "fraud")])
def test_the_declarations_load(project: str, model: str) -> None:
    found = read_project(load_settings(project=project))
    assert found.broken == {}
    assert list(found.realtime) == [model]


@pytest.mark.parametrize(("project", "model"), [("shop", "search"), ("fraud", "fraud")])
def test_requests_see_no_features_before_the_night_has_published_them(project: str, model: str) -> None:
    declared = read_project(load_settings(project=project)).realtime[model]
    assert declared.schedule.time_zone == "UTC"
    assert declared.schedule.cron == "0 3 * * *"
    assert declared.trained_examples.published_h > 3


def test_candidates_are_the_best_sellers_of_the_four_weeks_before_the_day() -> None:
    from shop.pipelines.search import best_sellers

    rng, days = random.Random(3), [FIRST + timedelta(days=number) for number in range(-28, 4)]
    rows = [
        {"category": "TEA", "event_day": rng.choice(days), "product": f"TEA {rng.randint(100, 180)}", "sold": 1}
        for _ in range(900)
    ]
    green = {"kind": "GREEN", "maker": 1}
    black = {"kind": "BLACK", "maker": 2}
    sold = pa.Table.from_pylist([row | (green if row["product"] < "TEA 130" else black) for row in rows])
    found = best_sellers(sold, first=FIRST, last=LAST).to_pylist()
    assert {row["category"] for row in found} == {"TEA"}
    for number in range(4):
        day = FIRST + timedelta(days=number)
        counts = Counter(row["product"] for row in rows if day - timedelta(days=28) <= row["event_day"] < day)
        wanted = sorted(counts, key=lambda product: (-counts[product], product))[:50]
        of_day = [row for row in found if row["day"] == day]
        assert [row["product"] for row in of_day] == wanted
        assert [row["position"] for row in of_day] == list(range(len(wanted)))
        assert all(
            {"kind": row["kind"], "maker": row["maker"]} == (green if row["product"] < "TEA 130" else black)
            for row in of_day
        )


def _features(views: dict[str, dict[str, list[float]]], length: int) -> dict[str, list[float]]:
    from shop.pipelines.search import search
    from shop.ranking import FEATURES, search_features

    looked_up = {each.called: each.columns for each in search.lookups}
    matrices, found = {}, {}
    for view, names in looked_up.items():
        given = views.get(view, {})
        assert given.keys() <= set(names)
        columns = [given.get(name, [np.nan] * length) for name in names]
        matrices[view] = np.array(columns, np.float32).T
        found[view] = np.array([view in views] * length)
    places = {view: {name: place for place, name in enumerate(names)} for view, names in looked_up.items()}
    matrix: Any = search_features(Rows(length, {}, matrices, found, places))
    assert (matrix.dtype, matrix.shape) == (np.float32, (length, len(FEATURES)))
    return dict(zip(FEATURES, matrix.T.tolist(), strict=True))


def test_features_are_counts_shares_and_ranks_within_the_search() -> None:
    found = _features(
        {
            "household_product": {
                "bought_7d": [1, 0, 0],
                "bought_28d": [1, 0, 0],
                "bought_91d": [1, 2, 0],
                "bought_364d": [4, 2, 0],
            },
            "household_category": {"bought_364d": [8] * 3, "baskets_364d": [5] * 3},
            "household_kind": {"bought_364d": [6, 6, 2]},
            "household_maker": {"bought_364d": [4, 4, 0]},
            "product": {
                "sold_7d": [5, 1, 0],
                "sold_28d": [10, 10, 20],
                "sold_91d": [30, 20, 10],
                "sold_364d": [90, 20, 30],
                "buyers_364d": [30, 20, 0],
            },
        },
        3,
    )
    # A purchase counts 1 in its first week, 0.45 in the quarter, 0.1 in the year; sales only tell equal ones apart.
    assert found["repeat"] == pytest.approx([1 + 0.3 + 0.01, 2 * 0.45 + 0.01, 0.02])
    assert found["repeat_rank"] == [0, 1, 2]
    assert found["share_364d"] == [0.5, 0.25, 0]
    assert found["basket_share_364d"] == pytest.approx([0.8, 0.4, 0])
    assert found["repeat_share"] == pytest.approx([1.31 / 2.24, 0.91 / 2.24, 0.02 / 2.24])
    assert found["kind_share_364d"] == [0.75, 0.75, 0.25]
    assert found["maker_share_364d"] == [0.5, 0.5, 0]
    assert found["popularity"] == [10, 10, 20]
    assert found["popularity_rank"] == [1, 1, 0]
    assert found["popularity_share"] == [0.25, 0.25, 0.5]
    assert found["trend"] == pytest.approx([0.5, 0.1, 0])
    assert found["week_share"] == pytest.approx([5 / 6, 1 / 6, 0])
    assert found["loyalty"] == [3, 1, 30]
    assert found["store_popularity"] == [0, 0, 0]


def test_days_are_counted_to_the_newest_sale_of_a_candidate() -> None:
    found = _features(
        {
            "household_product": {
                "days_364d": [5, 1, np.nan],
                "first_bought": [17_400, 17_490, np.nan],
                "last_bought": [17_480, 17_490, np.nan],
            },
            "household_category": {"last_bought": [17_495] * 3},
            "product": {"first_sold": [17_300, 17_400, 17_499], "last_sold": [17_500, 17_498, 17_499]},
        },
        3,
    )
    assert found["category_days"] == [5, 5, 5]
    assert found["days_since"] == pytest.approx([20, 10, np.nan], nan_ok=True)
    assert found["days_since_rank"] == [1, 0, 2]
    # Five days of purchases in 80 days are 20 days apart; one day tells nothing.
    assert found["due"] == pytest.approx([1, np.nan, np.nan], nan_ok=True)
    assert found["days_on_sale"] == [200, 100, 1]
    assert found["days_unsold"] == [0, 2, 1]


def test_prices_are_compared_with_other_candidates_with_what_is_paid_and_with_earlier_ones() -> None:
    found = _features(
        {
            "household_category": {"price_364d": [4] * 3},
            "household_kind": {"price_364d": [2, np.nan, 4]},
            "product": {
                "price_7d": [3, 2, np.nan],
                "price_91d": [4, 2, 3],
                "discount_7d": [1, 0, np.nan],
                "discount_91d": [0, 0, 1],
            },
        },
        3,
    )
    assert found["price"] == [4, 2, 3]
    assert found["price_of_others"] == pytest.approx([4 / 3, 2 / 3, 1])
    assert found["price_of_category"] == [1, 0.5, 0.75]
    assert found["price_of_kind"] == pytest.approx([2, np.nan, 0.75], nan_ok=True)
    assert found["price_now"] == pytest.approx([0.75, 1, np.nan], nan_ok=True)
    assert found["discount"] == pytest.approx([0.25, 0, np.nan], nan_ok=True)
    assert found["discount_more"] == pytest.approx([0.25, 0, np.nan], nan_ok=True)
    assert found["discount_of_others"] == pytest.approx([0.125, -0.125, np.nan], nan_ok=True)


def test_what_no_view_knows_has_counts_of_zero_and_neither_days_nor_prices() -> None:
    found = _features({}, 2)
    unknown = {name for name, values in found.items() if np.isnan(values).all()}
    assert unknown == {
        name for name in found if name.startswith(("price", "discount", "days", "category_days", "due"))
    } - {"days_since_rank"}
    assert {tuple(found[name]) for name in found.keys() - unknown} == {(0.0, 0.0)}


def test_the_payment_of_a_new_user_has_what_the_request_says_and_else_nothing() -> None:
    from fraud.scoring import FEATURES, payment_features

    names = ("payments_30d", "mean_30d", "most_30d", "abroad_30d")
    request = {
        "user_id": np.array([7]),
        "amount": np.array([90.0]),
        "country": np.array(["abroad"], object),
        "paid_at": np.array(["2026-03-01T02:30:00"], "datetime64[us]"),
    }
    places = {"spending": {name: place for place, name in enumerate(names)}}

    def features(known: list[float]) -> dict[str, float]:
        matrix = np.array([known], np.float32)
        rows = Rows(1, request, {"spending": matrix}, {"spending": ~np.isnan(matrix[:, 0])}, places)
        return dict(zip(FEATURES, payment_features(rows)[0].tolist(), strict=True))

    known = features([10, 30, 60, 1])
    assert known == pytest.approx(
        {
            "amount": 90,
            "times_mean": 3,
            "times_most": 1.5,
            "payments_30d": 10,
            "abroad": 1,
            "abroad_share": 0.1,
            "hour": 2.5,
        }
    )
    new = features([np.nan] * 4)
    assert {name for name, value in new.items() if not np.isnan(value)} == {"amount", "abroad", "hour"}
