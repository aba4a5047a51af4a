"""What the counts of a step prove: the guards compared, and whether it waits, is passed, returned or paused."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from forecache.operations.rollout.evidence import (
    LEAST_KEYS,
    Difference,
    Sums,
    difference,
    limited,
    most_of_a_key,
    paired,
    split_is_off,
    sums_of,
)
from forecache.operations.rollout.seen import GUARD, Seen
from forecache.pipeline.realtime.rollout import Outcome
from forecache.realtime.rollout.state import Compared, RolloutState, Stage

TWO_SIDED = ("score_level", "score_spread")
"""Guards for which a difference in either direction does harm."""
_OF_STAGE: Mapping[str, tuple[str, ...]] = {
    "aa": ("without_model", "late", "slow", "score_level", "score_spread"),
    "shadow": ("without_model", "score_level", "score_spread"),
    "canary": ("without_model", "late", "slow", "score_level", "score_spread", "outcome"),
}
_SAID = {
    "without_model": "requests without an answer of the model",
    "late": "late answers",
    "slow": "slow answers",
    "score_level": "level of the scores",
    "score_spread": "spread of the scores",
    "outcome": "outcome",
}
_LEAST_SCALE = 0.01


@dataclass(frozen=True)
class Verdict:
    """What follows from a look.

    Attributes:
        verdict: "waits", "passed", "returned" or "paused".
        why: In a sentence.
    """

    verdict: str
    why: str
    compared: tuple[Compared, ...] = ()
    requests: tuple[int, int] = (0, 0)


def errors_of(plan: Mapping[str, Any], stage: Stage) -> dict[str, float]:
    """By guard, and "split" for the split of the keys, the probability that it stops an equal release in a step.

    Those of all steps and guards add up to `Rollout.error`, so that it bounds the probability that any does (Boole).
    The steps have equal parts; of a step's, the outcome has half where there is one.
    """
    steps = 1 + (plan["shadow_share"] > 0) + len(plan["shares"])
    of_step = plan["error"] / steps
    guards = [name for name in _OF_STAGE[stage] if name != "outcome" and plan["guards"][name] is not None]
    others = [*guards, *(["split"] if stage != "shadow" else [])]
    if stage == "canary" and plan["outcome"] is not None:
        return {**dict.fromkeys(others, of_step / 2 / len(others)), "outcome": of_step / 2}
    return dict.fromkeys(others, of_step / len(others)) if others else {}


def judged(state: RolloutState, seen: Seen, *, now: datetime) -> Verdict:
    """What is to be done with a rollout, by what was counted of its step."""
    errors = errors_of(state.plan, state.stage)
    compared = tuple(_compared(state, seen, errors))
    counts = seen.n[:, :, GUARD["without_model"]].sum(1)
    requests = (int(counts[0]), int(counts[1]))

    def verdict(what: str, why: str) -> Verdict:
        return Verdict(what, why, compared, requests)

    harmful = [each for each in compared if each.harmful]
    if harmful and state.stage == "aa":
        return verdict(
            "paused",
            f"Two arms of the same release differ: {_shown(harmful[0])}. Split or measurement is not sound, so that "
            "nothing would follow from a comparison.",
        )
    if harmful:
        return verdict("returned", f"Release {state.release} does harm: {_shown(harmful[0])}.")
    keys = (seen.n[:, :, GUARD["split"]] > 0).sum(1)
    if "split" in errors and split_is_off(keys[1], keys.sum(), state.share, error=errors["split"]):
        return verdict(
            "paused",
            f"{keys[1] / keys.sum():.4f} of {keys.sum():,} keys are in an arm of {state.share:g}: requests of one arm "
            "are missing in the log.",
        )
    why = _why_it_waits(state, seen, compared, requests, now)
    return verdict("waits", why) if why else verdict("passed", _passed(state, requests))


def _compared(state: RolloutState, seen: Seen, errors: Mapping[str, float]) -> Iterator[Compared]:
    for name, error in errors.items():
        if name == "split":
            continue
        place = GUARD[name]
        n, x = seen.n[:, :, place], seen.x[:, :, place]
        n, x = limited(n, x, most_of_a_key(n[0], n[1]))
        current, other = sums_of(n[0], x[0]), sums_of(n[1], x[1])
        is_shadow = state.stage == "shadow"
        found = paired((n[1], x[1]), (n[0], x[0])) if is_shadow else difference(other, current)
        yield compare(state.plan, name, found, other, current, error)


def compare(
    plan: Mapping[str, Any], name: str, found: Difference, other: Sums, current: Sums, error: float
) -> Compared:
    """What a guard says of a difference."""
    harm, bound, tolerated = harm_of(plan, name, found, current.mean, error)
    known = bool(np.isfinite(bound))
    return Compared(
        name,
        float(other.mean),
        float(current.mean),
        float(harm - bound) if known else None,
        float(harm + bound) if known else None,
        float(tolerated),
        known and bool(harm - bound > tolerated),
    )


def harm_of(plan: Mapping[str, Any], name: str, found: Difference, base: Any, error: float) -> tuple[Any, Any, Any]:
    """Of a guard the difference in the harmful direction, how far it may be off, and what is tolerated.

    Args:
        base: Mean of the current release.
    """
    if name == "outcome":
        outcome = Outcome(**plan["outcome"])
        harm = found.mean * (-1 if outcome.better == "more" else 1)
        return harm, found.bound(error, outcome.finds * base), outcome.tolerated * base
    tolerated = plan["guards"][name]
    scale = max(tolerated, _LEAST_SCALE)
    if name in TWO_SIDED:
        return np.abs(found.mean), found.bound(error / 2, scale), tolerated
    return found.mean, found.bound(error, scale), tolerated


def _why_it_waits(
    state: RolloutState, seen: Seen, compared: tuple[Compared, ...], requests: tuple[int, int], now: datetime
) -> str:
    """Why a step goes on, in a sentence; "" if it is passed."""
    if not sum(requests):
        where = f"; {seen.straggler} answered by an earlier step" if seen.straggler else ""
        return f"The request log has no request of this step{where}: without requests nothing moves on."
    wanted = state.plan["requests"]
    for arm, count in zip(("the current release", "the other arm"), requests, strict=True):
        if count < wanted:
            return f"{count:,} of {wanted:,} requests of {arm} are in the log."
    keys = int((seen.n[:, :, GUARD["without_model"]] > 0).sum(1).min())
    if keys < LEAST_KEYS:
        return f"The requests are of {keys} keys in the smaller arm; a comparison takes {LEAST_KEYS}."
    known = seen.n[:, :, GUARD["outcome"]].sum(1)
    if seen.fault:
        return seen.fault
    if state.stage == "canary" and state.plan["outcome"] is not None and known.min() < wanted:
        return f"The outcomes of {int(known.min()):,} of {wanted:,} requests are known."
    until = datetime.fromisoformat(state.step.since) + timedelta(hours=state.plan["hours"])
    if now < until:
        return f"The step lasts until {until.isoformat(timespec='seconds')}."
    for each in compared:
        harm = abs(each.candidate - each.current) if each.guard in TWO_SIDED else each.candidate - each.current
        if each.guard != "outcome" and harm > each.tolerated:
            return f"It is not proved yet whether it does harm: {_shown(each)}."
    return ""


def _passed(state: RolloutState, requests: tuple[int, int]) -> str:
    return f"No harm is proved by {requests[1]:,} requests beside {requests[0]:,} of the current release."


def _shown(each: Compared) -> str:
    by = "" if each.low is None else f", by at least {each.low:.4g}"
    return (
        f"{_SAID[each.guard]}: {each.candidate:.4g} instead of {each.current:.4g}{by if each.harmful else ''}; "
        f"{each.tolerated:.4g} more are tolerated"
    )
