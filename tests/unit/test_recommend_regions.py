"""Lists by region are those of a slow loop over all items, whatever the model."""

from collections import Counter
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from forecache import Recommender
from forecache.declare import Column, Source
from forecache.plugins.recommend.filters import Availability
from forecache.plugins.recommend.interactions import Interactions
from forecache.plugins.recommend.lists import lists_of
from forecache.plugins.recommend.models import Als, Ease, Popularity, RepeatPurchase, WithFallback

NIGHT = date(2026, 1, 28)
BOUGHT = Source(
    "bought",
    columns=(
        Column("user", "string"),
        Column("item", "string"),
        Column("kind", "string", required=False),
        Column("day", "date"),
    ),
    event_time="day",
    start=date(2026, 1, 1),
)


@pytest.mark.parametrize(
    "model",
    [Popularity(), Ease(l2=5.0), WithFallback(RepeatPurchase()), Als(factors=4), WithFallback(Als(factors=4))],
    ids=repr,
)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_list_has_the_best_items_of_the_user_s_region(model: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    users, items = rng.integers(0, 30, 300), rng.integers(0, 40, 300)
    table = pa.table(
        {
            "user": [f"u{user:02d}" for user in users],
            "item": [f"i{item:02d}" for item in items],
            "day": [NIGHT - timedelta(days=int(days)) for days in rng.integers(0, 20, 300)],
        }
    )
    bought = Interactions.from_table(table, user="user", item="item", time="day")
    groups = {f"i{item:02d}": f"k{item % 4}" for item in range(40) if item % 7}
    declared = Recommender("r", BOUGHT, "user", "item", model, k=10, exclude_days=5, group="kind", most_of_group=3)
    there = {(f"i{item:02d}", where): bool(rng.random() < 0.6) for item in range(45) for where in "abc"}
    region = {f"u{user:02d}": ("a", "b", "c", "d", None)[user % 5] for user in range(28)}
    available = Availability(
        pa.array([item for item, _ in there]),
        np.array(list(there.values())),
        pa.array([where for _, where in there]),
        pa.array(list(region)),
        pa.array(list(region.values())),
    )
    fitted = model.fit(bought, seed=0)
    history = fitted.history(bought)
    lately = {(row["user"], row["item"]) for row in table.to_pylist() if row["day"] > NIGHT - timedelta(days=5)}
    keys, scores = bought.item_keys.to_pylist(), fitted.score(history)
    found: dict[str, list[str]] = {}
    for some, lists in lists_of(declared, fitted, bought, NIGHT, groups, available).parts(100):
        found |= {u: [p["item"] for p in row] for u, row in zip(some.to_pylist(), lists.to_pylist(), strict=True)}
    for number, user in enumerate(bought.user_keys.to_pylist()):
        where = [region.get(user)] if region.get(user) in ("a", "b", "c") else ["a", "b", "c"]
        expected: list[str] = []
        taken: Counter[str] = Counter()
        for place in np.argsort(-scores[number], kind="stable"):
            item = keys[place]
            group = groups.get(item, item)
            may = (user, item) not in lately and all(there[item, each] for each in where)  # type: ignore[index]
            if may and scores[number, place] > -np.inf and taken[group] < 3 and len(expected) < 10:
                taken[group] += 1
                expected.append(item)
        assert found[user] == expected, user
