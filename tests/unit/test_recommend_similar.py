"""Lists from item to item: by the model where it has such, else by who took both."""

from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from forecache.plugins.recommend.filters import Filters
from forecache.plugins.recommend.interactions import Interactions
from forecache.plugins.recommend.lists import item_lists_of
from forecache.plugins.recommend.models import Als, Ease, Habits, Popularity, RepeatPurchase, WithFallback

rng = np.random.default_rng(3)
PAIRS = sorted({(int(u), int(i)) for u, i in zip(rng.integers(0, 80, 900), rng.integers(0, 30, 900), strict=True)})
TABLE = pa.table(
    {
        "user": [user for user, _ in PAIRS],
        "item": [f"i{item:02d}" for _, item in PAIRS],
        "day": [date(2026, 1, 1 + n % 28) for n in range(len(PAIRS))],
    }
)
INTERACTIONS = Interactions.from_table(TABLE, user="user", item="item", time="day")
X = INTERACTIONS.matrix().toarray()


def lists(model: Any, k: int = 7, **more: Any) -> dict[str, list[tuple[str, float, str | None]]]:
    found = item_lists_of(model.fit(INTERACTIONS, seed=0), INTERACTIONS, k, **more)
    rows: dict[str, Any] = {}
    for keys, parts in found.parts(1000):
        for key, places in zip(keys.to_pylist(), parts.to_pylist(), strict=True):
            rows[key] = [(place["item"], place["score"], place["reason"]) for place in places]
    assert list(rows) == INTERACTIONS.item_keys.to_pylist()
    return rows


def best(scores: np.ndarray, k: int) -> dict[str, list[str]]:
    keys = INTERACTIONS.item_keys.to_pylist()
    np.fill_diagonal(scores, -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return {keys[n]: [keys[item] for item in row if scores[n, item] > 0] for n, row in enumerate(order)}


@pytest.mark.parametrize("model", [Popularity(), RepeatPurchase(), Habits(), WithFallback(Popularity())], ids=repr)
def test_a_model_without_similarities_has_the_cosine_of_the_users(model: Any) -> None:
    counts = X.sum(axis=0)
    cosine = (X.T @ X / np.sqrt(np.outer(counts, counts))).astype(np.float32)
    found = lists(model)
    assert {key: [item for item, _, _ in places] for key, places in found.items()} == best(cosine, 7)
    together = X.T @ X
    keys = INTERACTIONS.item_keys.to_pylist()
    for key, places in found.items():
        for item, _, reason in places:
            assert reason == f"{int(together[keys.index(key), keys.index(item)])} took both"


def test_ease_has_the_rows_of_its_weights_and_only_what_is_added_to() -> None:
    inverse = np.linalg.inv(X.T @ X + 50 * np.eye(X.shape[1]))
    weights = -inverse / np.diag(inverse)
    found = lists(Ease(l2=50.0), k=29)
    assert {key: [item for item, _, _ in places] for key, places in found.items()} == best(weights, 29)
    assert min(score for places in found.values() for _, score, _ in places) > 0
    assert lists(WithFallback(Ease(l2=50.0)), k=29) == found


def test_factors_have_the_cosine_of_their_vectors() -> None:
    model = Als(factors=8, iterations=3)
    fitted = model.fit(INTERACTIONS, seed=0)
    unit = fitted.item_vectors / np.linalg.norm(fitted.item_vectors, axis=1, keepdims=True)
    found = lists(model)
    scores = unit @ unit.T
    for key, expected in best(scores, 7).items():
        assert sorted(item for item, _, _ in found[key]) == sorted(expected)


def test_more_items_than_there_are_and_items_that_may_not_be_listed() -> None:
    assert max(map(len, lists(Popularity(), k=1000).values())) <= 29
    available = np.ones(INTERACTIONS.num_items, bool)
    available[3] = False
    found = lists(Popularity(), k=29, filters=Filters(available=available))
    assert "i03" not in {item for places in found.values() for item, _, _ in places}
    assert found["i03"], "an item that is out of stock has a list"
