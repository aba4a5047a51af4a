"""Judge a step of a rollout by its guards: it waits, is passed, returned or paused."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from forecache.plugins.rollouts.evidence import LEAST_KEYS, TWO_SIDED, compare_guards, errors_of, has_split_mismatch
from forecache.plugins.rollouts.step_counts import GUARD, StepCounts
from forecache.realtime.release.rollout_state import GuardResult, RolloutState, Stage

_SAID = {
    "without_model": "requests without an answer of the model",
    "late": "late answers",
    "slow": "slow answers",
    "score_level": "level of the scores",
    "score_spread": "spread of the scores",
    "order": "order beside that of the current release, 0 if it is the same and 0.5 if it is unrelated",
    "outcome": "outcome",
}


@dataclass(frozen=True)
class StepVerdict:
    verdict: str  # "waits", "passed", "returned" or "paused"
    why: str  # the reason, in a sentence
    compared: tuple[GuardResult, ...] = ()
    requests: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class StepTotals:
    """Totals of a step. Pairs are of the current release's variant, and of the other."""

    requests: tuple[int, int]  # number of requests that count for a guard of a release
    keys: tuple[int, int]  # number of keys of these requests
    keys_in_all: tuple[int, int]  # number of keys of all requests, for the split
    outcomes: tuple[int, int] = (0, 0)  # number of requests with a known outcome
    ordered: int = 0  # number of requests that both releases have scored in the shadow step, whose orders are compared
    straggler: str = ""  # as `fault`, see `StepCounts`
    fault: str = ""


def judge_step(state: RolloutState, seen: StepCounts, *, now: datetime) -> StepVerdict:
    return decide_step(state, totals_of(seen), tuple(compare_guards(state, seen)), now=now)


def totals_of(seen: StepCounts) -> StepTotals:
    def pair(counts: np.ndarray) -> tuple[int, int]:
        return int(counts[0]), int(counts[1])

    of_guards = seen.n[:, :, GUARD["without_model"]]
    return StepTotals(
        pair(of_guards.sum(1)),
        pair((of_guards > 0).sum(1)),
        pair((seen.n[:, :, GUARD["split"]] > 0).sum(1)),
        pair(seen.n[:, :, GUARD["outcome"]].sum(1)),
        int(seen.n[1, :, GUARD["order"]].sum()),
        seen.straggler,
        seen.fault,
    )


def decide_step(
    state: RolloutState, counts: StepTotals, found: tuple[GuardResult, ...], *, now: datetime
) -> StepVerdict:
    """The verdict on the present step of a rollout, by the comparisons of its guards."""

    def verdict(what: str, why: str) -> StepVerdict:
        return StepVerdict(what, why, found, counts.requests)

    harmful = [each for each in found if each.harmful]
    if harmful and state.stage == "aa":
        return verdict(
            "paused",
            f"Two variants of the same release differ: {_comparison_text(harmful[0])}. Split or "
            "measurement is not sound, so that "
            "nothing would follow from a comparison.",
        )
    if harmful:
        return verdict("returned", f"Release {state.release} does harm: {_comparison_text(harmful[0])}.")
    error = errors_of(state.plan, state.stage).get("split")
    other, keys = counts.keys_in_all[1], sum(counts.keys_in_all)
    if error is not None and has_split_mismatch(other, keys, state.share, error=error):
        return verdict(
            "paused",
            f"{other / keys:.4f} of {keys:,} keys are in a variant of {state.share:g}: requests of one variant are "
            "missing in the log.",
        )
    why = _waiting_reason(state, counts, found, now)
    return verdict("waits", why) if why else verdict("passed", _passed_sentence(counts.requests, found))


def next_step(state: RolloutState) -> tuple[Stage, float] | None:
    """The stage and share of the next step; None: the candidate becomes current."""
    shares: list[float] = list(state.plan["shares"])
    if state.stage == "aa" and state.plan["shadow_share"]:
        return "shadow", state.plan["shadow_share"]
    left = [share for share in shares if state.stage != "canary" or share > state.share]
    return ("canary", left[0]) if left else None


def _waiting_reason(state: RolloutState, counts: StepTotals, found: tuple[GuardResult, ...], now: datetime) -> str:
    """The reason why a step goes on, in a sentence; "" if it is passed."""
    if not sum(counts.requests):
        where = f"; {counts.straggler} answered by an earlier step" if counts.straggler else ""
        return f"The request log has no request of this step{where}: without requests nothing moves on."
    wanted = state.plan["requests"]
    placed = ", placed as the candidate is," if state.stage == "canary" else ""
    for variant, count in zip((f"the current release{placed}", "the other variant"), counts.requests, strict=True):
        if count < wanted:
            return f"{count:,} of {wanted:,} requests of {variant} are in the log."
    if min(counts.keys) < LEAST_KEYS:
        return f"The requests are of {min(counts.keys)} keys in the smaller variant; a comparison takes {LEAST_KEYS}."
    if "order" in errors_of(state.plan, state.stage) and counts.ordered < wanted:
        return f"{counts.ordered:,} of {wanted:,} requests are in the log with scores of both releases."
    if counts.fault:
        return counts.fault
    known = min(counts.outcomes)
    if state.stage == "canary" and state.plan["outcome"] is not None and known < wanted:
        return f"The outcomes of {known:,} of {wanted:,} requests are known."
    until = datetime.fromisoformat(state.step.since) + timedelta(hours=state.plan["hours"])
    if now < until:
        return f"The step lasts until {until.isoformat(timespec='seconds')}."
    for each in found:
        why = _outcome_waiting_reason(state, each) if each.guard == "outcome" else _guard_waiting_reason(each)
        if why:
            return why
    return ""


def _guard_waiting_reason(each: GuardResult) -> str:
    harm = abs(each.candidate - each.current) if each.guard in TWO_SIDED else each.candidate - each.current
    return f"It is not proved yet whether it does harm: {_comparison_text(each)}." if harm > each.tolerated else ""


def _outcome_waiting_reason(state: RolloutState, each: GuardResult) -> str:
    """The reason why the outcome is open: only the last step before all keys has to rule the declared margin out."""
    margin = state.plan["outcome"].get("margin")
    if margin is None or next_step(state) is not None:
        return ""
    allowed = margin * each.current
    if each.high is not None and each.high < allowed:
        return ""
    so_far = "" if each.high is None else f"; so far {each.high:.4g} is not"
    return (
        f"Outcome: {each.candidate:.4g} instead of {each.current:.4g}. A loss of {allowed:.4g}, the margin of "
        f"{margin:g}, has to be ruled out{so_far}."
    )


def _passed_sentence(requests: tuple[int, int], found: tuple[GuardResult, ...]) -> str:
    outcome = next((each for each in found if each.guard == "outcome"), None)
    high = None if outcome is None else outcome.high
    left = "" if high is None or outcome is None else (
        f" Their outcome may be worse by up to {max(high, 0.0):.4g}, from {outcome.current:.4g}."
    )  # fmt: skip
    return f"No harm is proved by {requests[1]:,} requests beside {requests[0]:,} of the current release.{left}"


def _comparison_text(each: GuardResult) -> str:
    by = "" if each.low is None else f", by at least {each.low:.4g}"
    return (
        f"{_SAID[each.guard]}: {each.candidate:.4g} instead of {each.current:.4g}{by if each.harmful else ''}; "
        f"{each.tolerated:.4g} more are tolerated{_remedy(each)}"
    )


def _remedy(each: GuardResult) -> str:
    is_of_scores = each.harmful and each.guard in ("score_level", "score_spread")
    return f". If the new model scores on another scale, declare Guards({each.guard}=None)" if is_of_scores else ""
