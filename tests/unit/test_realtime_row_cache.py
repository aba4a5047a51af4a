"""Rows that were read before are the rows that are read again."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecache.realtime import lookups as row_cache
from forecache.realtime.lookups import FEW, RowCache


class Store:
    """Rows of the even keys, and how many keys were asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def read(self, keys: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        self.asked += len(keys)
        numbers = np.array([int(key) for key in keys])
        known = numbers % 2 == 0
        rows = np.stack([numbers, -numbers], axis=1).astype(np.float32)
        rows[~known] = np.nan
        return rows, known


def keys(numbers: Sequence[int]) -> list[bytes]:
    return [b"%d" % number for number in numbers]


@given(st.lists(st.lists(st.integers(0, 60), max_size=40), max_size=30))
def test_whatever_was_read_before_a_read_gives_the_same(requests: list[list[int]]) -> None:
    cache, store = RowCache(Store().read, 2), Store()
    cache._rows, cache._known = cache._rows[:50], cache._known[:50]
    for request in requests:
        rows, known = cache.matrix(keys(request))
        expected_rows, expected_known = store.read(keys(request)) if request else (rows, known)
        np.testing.assert_array_equal(rows, expected_rows)
        np.testing.assert_array_equal(known, expected_known)
        rows[:] = 7  # the caller's own


def test_a_key_is_read_once_also_if_it_is_unknown_or_asked_for_twice_at_a_time() -> None:
    store = Store()
    cache = RowCache(store.read, 2)
    asked = keys([*range(FEW + 1), 3, 3])
    for _ in range(5):
        cache.matrix(asked)
    assert store.asked == FEW + 1


def test_few_keys_are_read_as_they_are() -> None:
    store = Store()
    cache = RowCache(store.read, 2)
    for _ in range(3):
        cache.matrix(keys(range(FEW)))
    assert store.asked == 3 * FEW


def test_keys_that_never_come_again_are_not_kept_once_the_cache_was_full() -> None:
    store = Store()
    cache = RowCache(store.read, 2)
    cache._rows, cache._known = cache._rows[:2_000], cache._known[:2_000]
    for turn in range(400):
        cache.matrix(keys(range(turn * 20, turn * 20 + 20)))
    assert cache.share < 0.5
    assert len(cache._places) < 2_000 / 2
    for _ in range(32 * 80):
        cache.matrix(keys(range(20)))
    assert cache.share > 0.5  # it is worth it again


def test_the_memory_of_a_wide_view_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_cache, "_MOST_BYTES", 4 * 1000 * 50)
    assert len(RowCache(Store().read, 1000)._known) == 50


def test_an_empty_cache_keeps_what_is_new_to_it_until_it_is_full() -> None:
    store = Store()
    cache = RowCache(store.read, 2)
    groups = [keys(range(first, first + 20)) for first in range(0, 8_000, 20)]
    for _ in range(3):
        for group in groups:
            cache.matrix(group)
    assert store.asked == 8_000
