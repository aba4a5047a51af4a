"""Distances between distributions: zero where equal, bounded, and large where a person would say so."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecache.base.errors import SettingsError
from forecache.base.statistics import Distance, distance, merge_bins
from forecache.declare import Drift

LIMITS = Drift()
COUNTS = st.lists(st.integers(0, 1000), min_size=4, max_size=4).filter(sum)


def effect(apart: Distance) -> str:
    return LIMITS.effect(apart.psi, apart.js)


def test_equal_shares_are_no_distance_whatever_the_rows() -> None:
    apart = distance([10, 20, 70], [100, 200, 700])
    assert apart.psi == pytest.approx(0)
    assert apart.js == pytest.approx(0, abs=1e-8)
    assert (apart.rows, apart.reference_rows, effect(apart)) == (1000, 100, "none")


def test_the_index_is_the_textbook_s() -> None:
    apart = distance([50, 50], [25, 75])
    assert apart.psi == pytest.approx(-0.25 * math.log(0.5) + 0.25 * math.log(1.5))
    assert effect(apart) == "large"


def test_nothing_in_common_is_a_distance_of_one() -> None:
    apart = distance([100, 0], [0, 100])
    assert apart.js == pytest.approx(1)
    assert math.isfinite(apart.psi)
    assert effect(apart) == "large"


def test_a_few_rows_moved_are_a_small_effect_at_most() -> None:
    assert effect(distance([250, 250, 250, 250], [255, 245, 252, 248])) == "none"
    assert effect(distance([250, 250, 250, 250], [330, 250, 240, 180])) in ("none", "small")


@given(COUNTS, COUNTS)
def test_both_distances_are_symmetric_and_bounded(one: list[int], other: list[int]) -> None:
    there, back = distance(one, other), distance(other, one)
    assert there.js == pytest.approx(back.js, abs=1e-9)
    assert there.psi == pytest.approx(back.psi, abs=1e-9)
    assert 0 <= there.js <= 1 + 1e-9
    assert there.psi >= -1e-12


def test_merged_bins_hold_a_tenth_of_the_rows_each_and_lose_none() -> None:
    edges, counts = merge_bins([0.1, 0.2, 0.3, 0.4], [0, 50, 5, 45, 0], 10)
    assert edges == [0.2]
    assert counts == [50, 50]
    assert merge_bins([0.5], [100, 0], 10) == ([], [100])
    assert merge_bins([], [7], 10) == ([], [7])


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60).filter(sum))
def test_merged_bins_are_at_most_as_many_as_asked_for(counts: list[int]) -> None:
    edges, merged = merge_bins([float(i) for i in range(len(counts) - 1)], counts, 10)
    assert len(merged) == len(edges) + 1 <= 10
    assert sum(merged) == sum(counts)
    assert len(merged) == 1 or min(merged) * 10 >= sum(merged)


def test_chance_alone_stays_below_half_of_the_small_effect_with_the_fewest_rows_that_are_judged() -> None:
    rng = np.random.default_rng(0)
    shares = [0.1] * 10
    rows = LIMITS.min_rows
    apart = [distance(rng.multinomial(7 * rows, shares), rng.multinomial(rows, shares)) for _ in range(300)]
    assert np.quantile([found.psi for found in apart], 0.99) < LIMITS.small_psi / 2 * 1.2
    assert {effect(found) for found in apart} == {"none"}


def test_limits_out_of_order_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"`Drift` has large_psi=0\.2\. It is not below small_psi, 0\.3"):
        Drift(small_psi=0.3, large_psi=0.2)
    with pytest.raises(SettingsError, match="`Drift` has last=-1"):
        Drift(last=-1)
