"""Splits: each interaction on exactly one side, nothing of the test known to training."""

from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecache.base.errors import InputError, SettingsError
from forecache.plugins.recommend.evaluation.evaluate import split_by_day, split_by_user
from forecache.plugins.recommend.interactions import Interactions

START = date(2024, 1, 1)
ROWS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 20), st.integers(1, 5)), min_size=1, max_size=60
)


def interactions(rows: list[tuple[int, int, int, int]]) -> Interactions:
    who, what, day, n = zip(*rows, strict=True)
    days = [START + timedelta(days=each) for each in day]
    return Interactions.from_table(
        pa.table({"who": who, "what": what, "n": n, "day": days}), user="who", item="what", weight="n", time="day"
    )


def rows_of(found: Interactions) -> list[tuple[Any, ...]]:
    columns = (found.users, found.items, found.days, found.weights)
    return sorted(zip(*(each.tolist() for each in columns), strict=True))


@given(ROWS, st.floats(0.05, 0.95), st.integers(0, 5))
def test_a_random_split_puts_each_interaction_on_one_side_and_a_pair_on_the_same(
    rows: list[tuple[int, int, int, int]], share: float, seed: int
) -> None:
    whole = interactions(rows)
    train, test = split_by_user(whole, test_share=share, seed=seed)
    assert sorted(rows_of(train) + rows_of(test)) == rows_of(whole)
    pairs = [set(zip(side.users.tolist(), side.items.tolist(), strict=True)) for side in (train, test)]
    assert not pairs[0] & pairs[1]
    for user in range(whole.num_users):
        all_items, in_test = (len({i for u, i in side if u == user}) for side in (pairs[0] | pairs[1], pairs[1]))
        assert in_test == round(all_items * share)
    again = split_by_user(whole.select(np.arange(len(whole))[::-1]), test_share=share, seed=seed)
    assert rows_of(again.test) == rows_of(test)


def test_another_seed_splits_otherwise() -> None:
    whole = interactions([(0, item, 0, 1) for item in range(7)] * 3)
    found = {tuple(split_by_user(whole, test_share=0.5, seed=seed).test.items.tolist()) for seed in range(8)}
    assert len(found) > 3


@given(ROWS, st.integers(-2, 22), st.integers(1, 10))
def test_a_split_by_day_trains_on_the_past_only(rows: list[tuple[int, int, int, int]], day: int, days: int) -> None:
    whole, cut = interactions(rows), START + timedelta(days=day)
    expected_train = [row for row in rows_of(whole) if row[2] < cut]
    expected_test = [row for row in rows_of(whole) if cut <= row[2] < cut + timedelta(days=days)]
    if not expected_train or not expected_test:
        with pytest.raises(InputError, match="There are no interactions"):
            split_by_day(whole, cut, num_days=days)
        return
    train, test = split_by_day(whole, cut, num_days=days)
    assert rows_of(train) == expected_train
    assert rows_of(test) == expected_test
    assert train.item_keys.equals(test.item_keys)


def test_a_share_or_a_number_of_days_that_leaves_no_test_is_refused() -> None:
    whole = interactions([(0, 0, 0, 1)])
    for share in (0.0, 1.0, -0.5):
        with pytest.raises(SettingsError, match="not between 0 and 1"):
            split_by_user(whole, test_share=share, seed=0)
    with pytest.raises(SettingsError, match="0 days"):
        split_by_day(whole, START, num_days=0)
