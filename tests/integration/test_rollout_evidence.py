"""The test of rollouts: it keeps its error at all looks together, finds harm in a stated number of requests."""

from dataclasses import replace

import numpy as np
import pytest

from forecache.declare import Outcome, Rollout
from forecache.plugins.rollouts.evidence import (
    LEAST_KEYS,
    KeySums,
    has_split_mismatch,
    limit_keys,
    max_requests_of_a_key,
    paired_difference,
    sums_of,
    unpaired_difference,
)
from forecache.plugins.rollouts.simulate_command import simulate_equal_release
from forecache.plugins.rollouts.simulate_worse import SimulatedTraffic, simulate_worse_release

RUNS = 1_000
CONVERSIONS = SimulatedTraffic(rate=0.05, requests_per_key=4.0, alike=0.05)
SHORT = 400


def crossings(*, error: float, alike: float, rate: float, by_request: bool = False) -> float:
    """The share of A/A runs in which a difference is found at any of 30 looks; the same 300 keys come back in each.

    Args:
        by_request: As if each request were a key of its own, which is the mistake that is guarded against.
    """
    generator = np.random.default_rng(5)
    shape = (SHORT, 300)
    scale = 1 / alike - 1
    own = generator.beta(rate * scale, (1 - rate) * scale, shape)
    in_variant = generator.random(shape) < 0.5
    n, x, crossed = np.zeros(shape), np.zeros(shape), np.zeros(SHORT, np.bool_)
    for _ in range(30):
        more = generator.poisson(1.0, shape)
        n, x = n + more, x + generator.binomial(more, own)
        variants = [sums_of(np.where(variant, n, 0), np.where(variant, x, 0)) for variant in (in_variant, ~in_variant)]
        if by_request:
            variants = [KeySums(each.n, each.n, each.x, each.n, each.x, each.x) for each in variants]
        found = unpaired_difference(*variants)
        crossed |= found.mean - found.bound(error, 0.05) > 0
    return float(crossed.mean())


@pytest.mark.parametrize(("alike", "rate"), [(0.02, 0.3), (0.3, 0.3), (0.3, 0.02)])
def test_equal_arms_are_told_apart_as_rarely_as_is_asked_for_although_keys_come_back(alike: float, rate: float) -> None:
    assert crossings(error=0.05, alike=alike, rate=rate) <= 0.05


def test_it_is_the_key_that_counts_since_requests_of_a_key_would_prove_too_much() -> None:
    assert crossings(error=0.05, alike=0.3, rate=0.3, by_request=True) > 0.1


def test_the_first_keys_prove_nothing() -> None:
    ones = np.ones(LEAST_KEYS - 1)
    assert np.isinf(unpaired_difference(sums_of(ones, ones), sums_of(np.ones(1000), np.zeros(1000))).variance)


def test_a_few_keys_that_agree_are_not_taken_for_certain() -> None:
    current = sums_of(np.ones(3000), (np.arange(3000) % 100 < 20).astype(float))
    none = sums_of(np.ones(40), np.zeros(40))  # 8 are expected, and 0 of 40 come by chance in 1 of 8,000
    found = unpaired_difference(none, current)
    assert -found.mean - found.bound(1e-5, 0.05) < 0


def test_what_both_releases_have_in_common_cancels_where_they_scored_the_same_requests() -> None:
    generator = np.random.default_rng(1)
    n, x = np.full(500, 4.0), generator.integers(0, 5, 500).astype(float)
    same = paired_difference((n, x), (n, x))
    assert (float(same.mean), float(same.variance)) == (0.0, pytest.approx(1 / 2000**2))
    other = paired_difference((n, np.minimum(x + 1, 4)), (n, x))
    assert other.mean - other.bound(0.001, 0.05) > 0
    apart = unpaired_difference(sums_of(n, np.minimum(x + 1, 4)), sums_of(n, x))
    assert apart.variance > 5 * other.variance


def test_a_split_that_loses_keys_of_one_arm_is_found_and_a_true_one_is_not() -> None:
    generator = np.random.default_rng(3)
    variant = generator.random((RUNS, 5000)) < 0.2
    keys = np.arange(1, 5001)
    assert has_split_mismatch(variant.cumsum(1), keys, 0.2, error=0.01).any(1).mean() <= 0.01
    lost = variant & (generator.random(variant.shape) < 0.8)  # a fifth of one variant is missing
    there = lost | ~variant
    assert has_split_mismatch(lost.sum(1), there.sum(1), 0.2, error=0.01).mean() > 0.95


def test_a_conversion_that_is_two_percent_worse_is_returned_within_a_stated_number_of_requests() -> None:
    declared = Rollout(outcome=Outcome("orders", "bought", margin=0.02))
    found = simulate_worse_release(CONVERSIONS, 0.02, rollout=declared, runs=60)
    assert (found.returned_share, found.passed.any()) == (1.0, False)
    assert found.quantile(0.5) < 5_900_000
    assert found.quantile(0.9) < 10_000_000
    much = simulate_worse_release(CONVERSIONS, 0.2, rollout=declared, runs=30)
    assert much.returned_share == 1.0
    assert much.quantile(0.9) < 230_000


def test_without_a_margin_it_answers_all_requests_before_the_loss_can_be_proved() -> None:
    found = simulate_worse_release(
        CONVERSIONS, 0.02, rollout=Rollout(outcome=Outcome("orders", "bought", horizon_h=1.0)), runs=30
    )
    assert found.passed.all()
    assert found.hours.max() < 8
    assert np.isinf(found.quantile(0.5))


def test_an_equal_release_passes_a_margin_by_as_many_requests_as_find_a_loss_of_it() -> None:
    found = simulate_worse_release(
        CONVERSIONS, 0.0, rollout=Rollout(outcome=Outcome("orders", "bought", margin=0.05)), runs=30
    )
    assert found.passed.all()
    assert 500_000 < np.median(found.requests) < 1_500_000


EVERY_STEP = Rollout(outcome=Outcome("orders", "bought"))


def test_whole_rollouts_of_an_equal_release_are_not_stopped() -> None:
    found = simulate_equal_release(
        SimulatedTraffic(rate=0.05, requests_per_key=4.0, alike=0.2), rollout=EVERY_STEP, runs=30
    )
    assert (found.runs, found.num_stopped) == (30, 0), found.by


@pytest.mark.parametrize("guard", ["without_model", "late", "slow", "score_level", "score_spread", "order", "outcome"])
def test_in_these_rollouts_each_guard_can_return_a_release_at_the_smallest_step_that_has_it(guard: str) -> None:
    harm = {guard: -0.3 if guard == "outcome" else 0.4}
    traffic, of_canary = SimulatedTraffic(rate=0.3), replace(EVERY_STEP, shadow_share=0.0)
    if guard != "order":  # of the shadow step alone
        assert simulate_equal_release(traffic, rollout=of_canary, runs=1, worse=harm).by == {f"canary 0.01 {guard}": 1}
    first = "shadow" if guard in ("without_model", "score_level", "score_spread", "order") else "canary 0.01"
    assert simulate_equal_release(traffic, rollout=EVERY_STEP, runs=1, worse=harm).by == {f"{first} {guard}": 1}


def test_a_key_with_a_third_of_all_requests_is_not_taken_for_the_release() -> None:
    traffic = SimulatedTraffic(rate=0.05, requests_per_key=2.0, alike=0.5, heaviest=0.3)
    rollout = Rollout(shares=(0.05,), requests=200, shadow_share=0.0)
    found = simulate_equal_release(traffic, rollout=rollout, runs=100, keys=2_000, looks=2)
    assert found.num_stopped == 0, found.by
    assert found.held < 30, found.by  # without a limit, nearly all


def test_no_key_counts_for_more_than_a_thirtieth_of_its_arm_and_for_the_same_number_in_both() -> None:
    few, many = np.ones(50), np.full(500, 4.0)
    few[:2], many[7] = (900.0, 90.0), 70_000.0
    most = max_requests_of_a_key(few, many)
    assert float(most) == pytest.approx(48 / 28)  # c = (48 + 2 c) / 30
    n, x = limit_keys(few, few / 2, most)
    assert n.max() == pytest.approx(n.sum() / LEAST_KEYS)
    assert (x == n / 2).all()
    even = np.full(40, 3.0)
    assert (limit_keys(even, even, max_requests_of_a_key(even, even))[0] == even).all()
    assert np.isinf(max_requests_of_a_key(np.ones(LEAST_KEYS - 1)))
