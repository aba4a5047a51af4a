"""The lists are those that sorting every score would give, whatever the filters, the ties and the blocks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.sparse import random as random_matrix

from forecache.base.errors import InputError
from forecache.plugins.recommend.filters import Filters
from forecache.plugins.recommend.top_k import top_k, top_k_of_factors


def by_sorting(scores: np.ndarray, k: int, filters: Filters) -> np.ndarray:
    """Lists by (score descending, code ascending), made one user at a time, int32 [users, k]."""
    lists = np.full((len(scores), k), -1, np.int32)
    regions = None
    if filters.available_in is not None and filters.region_of_user is not None:
        regions = filters.available_in[filters.region_of_user]
    for user, row in enumerate(scores):
        seen = set() if filters.seen is None else set(filters.seen[[user]].indices)
        taken: dict[int, int] = {}
        chosen = []
        for item in np.lexsort((np.arange(len(row)), -row)):
            if item in seen or (filters.available is not None and not filters.available[item]):
                continue
            if regions is not None and not regions[user, item]:
                continue
            if filters.group_of_item is not None and filters.most_of_group is not None:
                group = filters.group_of_item[item]
                taken[group] = taken.get(group, 0) + 1
                if taken[group] > filters.most_of_group:
                    continue
            chosen.append(item)
        lists[user, : len(chosen[:k])] = chosen[:k]
    return lists


def all_filters(rng: np.random.Generator, users: int, items: int) -> list[Filters]:
    seen = csr_matrix(random_matrix(users, items, 0.02, random_state=rng))
    available = rng.random(items) < 0.7
    regions = {"region_of_user": rng.integers(0, 3, users), "available_in": rng.random((3, items)) < 0.8}
    groups = {"group_of_item": rng.integers(0, 9, items), "most_of_group": 2}
    return [
        Filters(),
        Filters(seen=seen),
        Filters(seen=seen, available=available, **regions),
        Filters(seen=seen, available=available, **regions, **groups),
    ]


@pytest.mark.parametrize(("items", "users", "k"), [(7, 5, 7), (300, 70, 10), (5000, 90, 20), (6000, 65, 200)])
def test_lists_are_those_of_sorting_everything(items: int, users: int, k: int) -> None:
    rng = np.random.default_rng(3)
    # Multiples of a half add up exactly whatever the order, and tie often; norms differ, so that items are left out.
    user_vectors = (np.round(rng.normal(size=(users, 8)) * 2) / 2).astype(np.float32)
    sizes = rng.gamma(0.3, 4, size=(items, 1))
    item_vectors = (np.round(rng.normal(size=(items, 8)) * sizes * 2) / 2).astype(np.float32)
    scores = user_vectors @ item_vectors.T

    def score(first: int, last: int, out: np.ndarray) -> None:
        out[:] = scores[first:last]

    for filters in all_filters(rng, users, items):
        expected = by_sorting(scores, k, filters)
        for parts in (
            list(top_k(score, users, items, k, filters=filters, threads=2)),
            list(top_k_of_factors(user_vectors, item_vectors, k, filters=filters, threads=2)),
        ):
            found = np.concatenate([part.items for part in parts])
            assert np.array_equal(found, expected)
            worth = np.concatenate([part.scores for part in parts])
            there = np.where(found >= 0, np.take_along_axis(scores, np.maximum(found, 0), axis=1), -np.inf)
            assert np.array_equal(worth, there)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_any_scores_are_sorted(items: int, users: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.choice(
        np.array([-np.inf, -1e30, -1.0, -0.0, 0.0, 1e-40, 1.0, 3e38, np.inf], np.float32), size=(users, items)
    )
    k = int(rng.integers(1, items + 1))

    def score(first: int, last: int, out: np.ndarray) -> None:
        out[:] = scores[first:last]

    found = np.concatenate([part.items for part in top_k(score, users, items, k)])
    expected = by_sorting(scores, k, Filters())
    left_out = np.take_along_axis(scores, np.maximum(expected, 0), axis=1) == -np.inf
    assert np.array_equal(found, np.where(left_out, -1, expected))


def test_items_that_cannot_be_on_a_list_are_not_scored_and_no_list_is_missed() -> None:
    """Most items have small norms here: the lists of few users need more than the first items."""
    rng = np.random.default_rng(5)
    item_vectors = rng.normal(size=(20_000, 16)).astype(np.float32) * rng.lognormal(0, 1.5, (20_000, 1)).astype("f4")
    user_vectors = rng.normal(size=(1100, 16)).astype(np.float32)
    parts = list(top_k_of_factors(user_vectors, item_vectors, 10, threads=2))
    assert [part.first for part in parts] == [0, 1024]
    scores = user_vectors @ item_vectors.T
    largest = -np.sort(-np.partition(scores, -10, axis=1)[:, -10:], axis=1)
    assert np.allclose(np.concatenate([part.scores for part in parts]), largest, rtol=1e-5)


def test_lists_do_not_depend_on_the_number_of_threads() -> None:
    rng = np.random.default_rng(6)
    vectors = [
        rng.normal(size=(n, 24)).astype(np.float32) * rng.lognormal(0, 1, (n, 1)).astype("f4") for n in (2500, 9000)
    ]
    one, four = ([*top_k_of_factors(*vectors, 20, threads=threads)] for threads in (1, 4))
    assert all(
        np.array_equal(a.items, b.items) and np.array_equal(a.scores, b.scores) for a, b in zip(one, four, strict=True)
    )


def test_what_cannot_be_listed_is_said() -> None:
    good = np.ones((3, 2), np.float32)
    bad = good.copy()
    bad[1, 0] = np.nan

    def score(first: int, last: int, out: np.ndarray) -> None:
        out[:] = np.nan

    with pytest.raises(InputError, match="list of the 4 best items was asked for, and there are 3. Ask for 1 to 3"):
        top_k_of_factors(good, good, 4)
    with pytest.raises(InputError, match="vector of item number 1 has a value that is not a number"):
        top_k_of_factors(good, bad, 2)
    with pytest.raises(InputError, match="vector of user number 1 has"):
        top_k_of_factors(bad, good, 2)
    with pytest.raises(InputError, match="A score is not a number"):
        list(top_k(score, 3, 3, 2))
    with pytest.raises(InputError, match="region_of_user or available_in without the other"):
        Filters(region_of_user=np.zeros(3, int))
    with pytest.raises(InputError, match="At most 0 items of a group"):
        Filters(group_of_item=np.zeros(3, int), most_of_group=0)


def test_no_user_has_no_list() -> None:
    assert list(top_k_of_factors(np.empty((0, 4), np.float32), np.ones((3, 4), np.float32), 2)) == []


def test_items_of_other_groups_are_found_behind_many_of_one() -> None:
    """The items of large norms, which alone are scored at first, are all of two groups."""
    rng = np.random.default_rng(0)
    sizes = np.linspace(3, 0.01, 9000, dtype=np.float32)[:, None] ** 2
    item_vectors = rng.normal(size=(9000, 8)).astype(np.float32) * sizes
    user_vectors = rng.normal(size=(50, 8)).astype(np.float32)
    numbers = np.arange(9000)
    groups = np.where(numbers < 3000, 0, np.where(numbers < 4000, 1, numbers % 50 + 2))
    filters = Filters(group_of_item=groups, most_of_group=2)
    found = np.concatenate([part.items for part in top_k_of_factors(user_vectors, item_vectors, 10, filters=filters)])
    assert np.array_equal(found, by_sorting(user_vectors @ item_vectors.T, 10, filters))
