"""The margin of an outcome: the last step before all keys is passed only once such a loss is ruled out."""

from datetime import timedelta

import pytest

from forecache.base.errors import SettingsError
from forecache.declare import Outcome, Rollout
from forecache.plugins.rollouts.judge_step import StepTotals, StepVerdict, decide_step
from forecache.plugins.rollouts.simulate_worse import BEGAN, simulated_state
from forecache.realtime.release.rollout_state import GuardResult


def verdict(
    high: float | None, *, margin: float | None = 0.02, share: float = 0.5, harmful: bool = False
) -> StepVerdict:
    rollout = Rollout(shares=(0.2, 0.5), outcome=Outcome("orders", "bought", margin=margin))
    found = GuardResult("outcome", 0.0499, 0.05, None if high is None else -0.001, high, 0.0, harmful)
    keys, requests = (round(1_000 * (1 - share)), round(1_000 * share)), (5_000, 5_000)
    return decide_step(
        simulated_state(rollout, "canary", share),
        StepTotals(requests, keys, keys, requests),
        (found,),
        now=BEGAN + timedelta(hours=30),
    )


def test_the_last_step_waits_until_the_margin_is_ruled_out() -> None:
    found = verdict(0.0012)
    assert found.verdict == "waits"
    assert "A loss of 0.001, the margin of 0.02, has to be ruled out; so far 0.0012 is not." in found.why
    assert verdict(None).verdict == "waits"
    assert verdict(0.00099).verdict == "passed"
    assert verdict(0.0012, harmful=True).verdict == "returned"


def test_earlier_steps_and_a_rollout_without_a_margin_pass_and_say_how_much_worse_it_may_be() -> None:
    for found in (verdict(0.0312, share=0.2), verdict(0.0312, margin=None)):
        assert found.verdict == "passed"
        assert found.why.endswith("Their outcome may be worse by up to 0.0312, from 0.05.")


def test_a_margin_that_is_no_more_than_what_is_tolerated_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"margin=0\.01"):
        Outcome("orders", "bought", tolerated=0.01, margin=0.01)


def test_a_release_that_is_returned_by_the_level_of_its_scores_learns_how_to_allow_another_scale() -> None:
    state = simulated_state(Rollout(), "canary", 0.5)
    for guard, ending in (
        ("score_level", "; 0.1 more are tolerated. If the new model scores on another scale, declare "
                        "Guards(score_level=None)."),
        ("late", "; 0.1 more are tolerated."),
    ):  # fmt: skip
        found = GuardResult(guard, 0.7, 0.5, 0.15, 0.25, 0.1, True)
        totals = StepTotals((5_000, 5_000), (500, 500), (500, 500))
        verdict = decide_step(state, totals, (found,), now=BEGAN + timedelta(hours=30))
        assert verdict.verdict == "returned"
        assert verdict.why.endswith(ending)
