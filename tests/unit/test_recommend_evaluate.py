"""Judging recommenders: the right users, nothing of the test in the lists' making, gains with intervals."""

from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from forecache.base.errors import InputError
from forecache.plugins.recommend.evaluation.evaluate import (
    MODEL,
    Evaluation,
    TrainTestSplit,
    best_items,
    evaluate,
    split_by_day,
    split_by_user,
)
from forecache.plugins.recommend.filters import Filters
from forecache.plugins.recommend.interactions import Interactions
from forecache.plugins.recommend.models import (
    Als,
    Ease,
    Factors,
    Popularity,
    RecommenderModel,
    RepeatPurchase,
    WithFallback,
)

DAY = date(2024, 6, 1)


def interactions(rows: list[tuple[Any, ...]]) -> Interactions:
    """Rows of user, item, days after DAY, each of weight 1."""
    who, what, after = zip(*rows, strict=True)
    days = [DAY + timedelta(days=each) for each in after]
    return Interactions.from_table(pa.table({"u": who, "i": what, "d": days}), user="u", item="i", time="d")


# Item 0 is popular. In the test a buys 0 again and 2, b buys 1, and c, who is new, buys 0; d only trains.
ROWS = [("a", 0, -9), ("a", 1, -5), ("b", 0, -4), ("d", 0, -3), ("d", 2, -2), ("d", 3, -2)]
TEST = [("a", 0, 0), ("a", 2, 1), ("b", 1, 2), ("c", 0, 0), ("c", 0, 9)]


def temporal() -> TrainTestSplit:
    return split_by_day(interactions(ROWS + TEST), DAY, num_days=7)


POPULARITY = "popularity"


def judge(model: RecommenderModel, split: TrainTestSplit, *, k: int, exclude_seen: bool) -> Evaluation:
    """A model and popularity, both fitted to the training side."""
    fitted = {name: each.fit(split.train, seed=0) for name, each in {MODEL: model, POPULARITY: Popularity()}.items()}
    return evaluate(fitted, split, k=k, exclude_seen=exclude_seen)


def test_users_with_something_in_the_test_are_judged_by_hand_computed_figures() -> None:
    found = judge(WithFallback(RepeatPurchase()), temporal(), k=2, exclude_seen=False)
    assert found.users.tolist() == [0, 1, 2]
    # Popularity lists 0, then 1 (the smaller of equal ones).
    assert found.models[POPULARITY].per_user["recall"].tolist() == [0.5, 1.0, 1.0]
    second = 1 / np.log2(3)
    expected = [1 / (1 + second), second, 1.0]
    np.testing.assert_allclose(found.models[POPULARITY].per_user["ndcg"], expected)
    assert found.models[POPULARITY].coverage == 0.5
    # Of three users with a history all had item 0 and one had item 1.
    np.testing.assert_allclose(found.models[POPULARITY].per_user["novelty"], -np.log2(1 / 3) / 2)
    # Repeat purchase lists 1, then 0, for a.
    np.testing.assert_allclose(found.models[MODEL].per_user["ndcg"], [second / (1 + second), second, 1.0])


def test_items_of_the_training_side_are_neither_listed_nor_relevant_where_excluded() -> None:
    split = temporal()
    found = judge(Popularity(), split, k=2, exclude_seen=True)
    assert found.users.tolist() == [0, 1, 2]
    assert found.models[MODEL].per_user["recall"].tolist() == [1.0, 1.0, 1.0]
    fitted = Popularity().fit(split.train)
    seen = split.train.matrix()[found.users]
    lists = best_items(fitted, split.train, found.users, 4, filters=Filters(seen=seen))
    assert lists.tolist() == [[2, 3, -1, -1], [1, 2, 3, -1], [0, 1, 2, 3]]


def test_a_test_without_anything_new_is_refused() -> None:
    split = split_by_day(interactions([("a", 0, -1), ("a", 0, 0)]), DAY, num_days=1)
    with pytest.raises(InputError, match="No user of the test has an item"):
        judge(Popularity(), split, k=1, exclude_seen=True)


def clusters() -> TrainTestSplit:
    rng = np.random.default_rng(2)
    rows = {(u, int(i) * 2 + u % 2, 0) for u in range(80) for i in rng.choice(15, 8, replace=False)}
    return split_by_user(interactions(sorted(rows)), test_share=0.25, seed=1)


def test_a_model_that_knows_what_goes_together_surely_gains_on_popularity() -> None:
    found = judge(Ease(l2=5.0), clusters(), k=5, exclude_seen=True)
    gain = found.gain("ndcg", POPULARITY)
    assert 0 < gain.low < gain.value < gain.high
    assert gain.value == pytest.approx(found.models[MODEL].mean("ndcg") - found.models[POPULARITY].mean("ndcg"))
    none = found.gain("ndcg", POPULARITY, model=POPULARITY)
    assert (none.value, none.low, none.high) == (0.0, 0.0, 0.0)


def test_factors_are_listed_as_their_scores_say_without_items_that_training_did_not_see() -> None:
    split = clusters()
    rare = int(split.train.items[0])
    train = split.train.select(split.train.items != rare)
    fitted = Als(factors=8, regularization=0.1, iterations=5).fit(train, seed=0)
    assert isinstance(fitted, Factors)
    users = np.arange(80, dtype=np.int32)
    lists = best_items(fitted, train, users, 29, filters=Filters())
    scores = fitted.score(fitted.history(train))
    np.testing.assert_array_equal(lists, np.argsort(-scores, axis=1, kind="stable")[:, :29])
    assert rare not in lists
    assert (best_items(fitted, train, users, 30, filters=Filters())[:, -1] == -1).all()


def test_no_list_depends_on_what_the_test_holds() -> None:
    split = temporal()
    model = {MODEL: Ease(l2=1.0).fit(split.train)}
    other = TrainTestSplit(split.train, split.test.select(split.test.users != 0))
    whole, part = (evaluate(model, each, k=2, exclude_seen=False) for each in (split, other))
    np.testing.assert_array_equal(whole.models[MODEL].per_user["ndcg"][1:], part.models[MODEL].per_user["ndcg"])
