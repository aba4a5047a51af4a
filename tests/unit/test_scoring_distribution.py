"""Distances between distributions: zero where equal, bounded, and large where a person would say so."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecache.scoring.distribution import distance

COUNTS = st.lists(st.integers(0, 1000), min_size=4, max_size=4).filter(sum)


def test_equal_shares_are_no_distance_whatever_the_rows() -> None:
    apart = distance([10, 20, 70], [100, 200, 700])
    assert apart.psi == pytest.approx(0)
    assert apart.js == pytest.approx(0, abs=1e-8)
    assert (apart.rows, apart.reference_rows, apart.level) == (1000, 100, "none")


def test_the_index_is_the_textbook_s() -> None:
    apart = distance([50, 50], [25, 75])
    assert apart.psi == pytest.approx(-0.25 * math.log(0.5) + 0.25 * math.log(1.5))
    assert apart.level == "large"


def test_nothing_in_common_is_a_distance_of_one() -> None:
    apart = distance([100, 0], [0, 100])
    assert apart.js == pytest.approx(1)
    assert math.isfinite(apart.psi)
    assert apart.level == "large"


def test_a_few_rows_moved_are_a_small_effect_at_most() -> None:
    assert distance([250, 250, 250, 250], [255, 245, 252, 248]).level == "none"
    assert distance([250, 250, 250, 250], [330, 250, 240, 180]).level in ("none", "small")


@given(COUNTS, COUNTS)
def test_both_distances_are_symmetric_and_bounded(one: list[int], other: list[int]) -> None:
    there, back = distance(one, other), distance(other, one)
    assert there.js == pytest.approx(back.js, abs=1e-9)
    assert there.psi == pytest.approx(back.psi, abs=1e-9)
    assert 0 <= there.js <= 1 + 1e-9
    assert there.psi >= -1e-12
