"""The guards of a step: the difference of the two arms, its bounds, and whether they exceed what is tolerated."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from forecache.declare.realtime.rollout import Outcome
from forecache.plugins.rollouts.evidence import (
    KeySums,
    MeanDifference,
    limit_keys,
    max_requests_of_a_key,
    paired_difference,
    sums_of,
    unpaired_difference,
)
from forecache.plugins.rollouts.step_counts import GUARD, StepCounts
from forecache.realtime.rollout.rollout_state import GuardResult, RolloutState, Stage

TWO_SIDED = ("score_level", "score_spread")
"""Guards for which a difference in either direction is harm."""
_OF_STAGE: Mapping[str, tuple[str, ...]] = {
    "aa": ("without_model", "late", "slow", "score_level", "score_spread"),
    "shadow": ("without_model", "score_level", "score_spread", "order"),
    "canary": ("without_model", "late", "slow", "score_level", "score_spread", "outcome"),
}
_LEAST_SCALE = 0.01
_BY_CHANCE = 0.5
"""Mean of the order guard for scores of noise: differences between the limit and it have to be found."""


def errors_of(plan: Mapping[str, Any], stage: Stage) -> dict[str, float]:
    """By guard, and "split" for the split of the keys, the probability that it stops an equal release in a step.

    The probabilities of all steps and guards add up to `Rollout.error`, which bounds that of any stop (Boole). Steps
    have equal parts; within a step, the outcome has half if there is one.
    """
    steps = 1 + (plan["shadow_share"] > 0) + len(plan["shares"])
    of_step = plan["error"] / steps
    guards = [name for name in _OF_STAGE[stage] if name != "outcome" and plan["guards"][name] is not None]
    others = [*guards, *(["split"] if stage != "shadow" else [])]
    if stage == "canary" and plan["outcome"] is not None:
        return {**dict.fromkeys(others, of_step / 2 / len(others)), "outcome": of_step / 2}
    return dict.fromkeys(others, of_step / len(others)) if others else {}


def compare_guards(state: RolloutState, seen: StepCounts) -> Iterator[GuardResult]:
    """The comparison of each guard of a step, by its counts."""
    for name, error in errors_of(state.plan, state.stage).items():
        if name == "split":
            continue
        place = GUARD[name]
        n, x = seen.n[:, :, place], seen.x[:, :, place]
        n, x = limit_keys(n, x, max_requests_of_a_key(n[0], n[1]))
        current, other = sums_of(n[0], x[0]), sums_of(n[1], x[1])
        is_shadow = state.stage == "shadow"
        found = paired_difference((n[1], x[1]), (n[0], x[0])) if is_shadow else unpaired_difference(other, current)
        yield compare_guard(state.plan, name, found, other, current, error)


def compare_guard(
    plan: Mapping[str, Any], name: str, found: MeanDifference, other: KeySums, current: KeySums, error: float
) -> GuardResult:
    """The comparison of a guard for a difference."""
    harm, bound, tolerated = harm_of(plan, name, found, current.mean, error)
    known = bool(np.isfinite(bound))
    return GuardResult(
        name,
        float(other.mean),
        float(current.mean),
        float(harm - bound) if known else None,
        float(harm + bound) if known else None,
        float(tolerated),
        known and bool(harm - bound > tolerated),
    )


def harm_of(plan: Mapping[str, Any], name: str, found: MeanDifference, base: Any, error: float) -> tuple[Any, Any, Any]:
    """The difference in a guard's harmful direction, its bound, and the tolerated difference.

    Args:
        base: Mean of the current release.
    """
    if name == "outcome":
        outcome = Outcome(**plan["outcome"])
        harm = found.mean * (-1 if outcome.better == "more" else 1)
        return harm, found.bound(error, outcome.finds * base), outcome.tolerated * base
    tolerated = plan["guards"][name]
    scale = max(_BY_CHANCE - tolerated if name == "order" else tolerated, _LEAST_SCALE)
    if name in TWO_SIDED:
        return np.abs(found.mean), found.bound(error / 2, scale), tolerated
    return found.mean, found.bound(error, scale), tolerated
