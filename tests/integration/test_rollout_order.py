"""The guard of the order: noise with the usual distribution is returned in the shadow step, other good models are not.

The default limit, 0.45, is a rank correlation of 0.1. Two models that share nothing but the truth agree better than
that if the scores of each have a correlation of 0.5 with it, also of two candidates alone.
"""

from dataclasses import replace

import numpy as np
import pytest
from rollout_support import answered, begin, looked, two_releases, until

from forecache.base.settings import Settings
from forecache.declare import Rollout
from forecache.kit.versioned.pointer import read_pointer
from forecache.plugins.rollouts.count_requests import disorder
from forecache.plugins.rollouts.evidence import paired_difference
from forecache.plugins.rollouts.judge_step import judge_step
from forecache.plugins.rollouts.simulate_worse import BEGAN, simulated_state
from forecache.plugins.rollouts.step_counts import GUARD, GUARDS, StepCounts
from forecache.realtime.release.folder import open_releases

RUNS, KEYS, MOST_LOOKS, REQUESTS = 200, 250, 60, 150
EDGES = tuple(float(edge) for edge in np.quantile(np.random.default_rng(0).normal(size=100_000), np.arange(1, 10) / 10))
MODELS = ("the same", "slightly better", "as good, and its own", "much better", "noise")


def scores_of(generator: np.random.Generator, model: str, candidates: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the current release, which has a correlation of 0.5 with the truth, and of a model with equal distribution."""
    truth, noise, own = generator.normal(size=(3, candidates))
    current = 0.5 * truth + np.sqrt(0.75) * noise
    others = {
        "the same": current,
        "slightly better": 0.55 * truth + np.sqrt(1 - 0.55**2) * (0.9 * noise + np.sqrt(0.19) * own),
        "as good, and its own": 0.5 * truth + np.sqrt(0.75) * own,
        "much better": 0.9 * truth + np.sqrt(0.19) * own,
        "noise": own,
    }
    return current, others[model]


def ends(generator: np.random.Generator, found: np.ndarray) -> str:
    """The verdict on a shadow step.

    Args:
        found: Values of requests, which are drawn from them.
    """
    state = replace(simulated_state(Rollout(hours=0.0), "shadow", 0.1), edges=EDGES)
    seen = StepCounts("")
    for _ in range(MOST_LOOKS):
        buckets = generator.integers(0, KEYS, REQUESTS).astype(np.uint64)
        values = np.full((2 * REQUESTS, len(GUARDS)), np.nan)
        values[:, GUARD["without_model"]] = values[:REQUESTS, GUARD["order"]] = 0.0
        values[REQUESTS:, GUARD["order"]] = generator.choice(found, REQUESTS)
        seen = seen.add_requests(np.tile(buckets, 2), np.repeat([0, 1], REQUESTS), values)
        verdict = judge_step(state, seen, now=BEGAN).verdict
        if verdict != "waits":
            return verdict
    return "waits"


@pytest.mark.slow
@pytest.mark.parametrize("candidates", [1, 2, 5, 40])
@pytest.mark.parametrize("model", MODELS)
def test_noise_is_returned_before_the_canary_and_a_model_that_is_as_good_or_better_is_not(
    model: str, candidates: int
) -> None:
    generator = np.random.default_rng([MODELS.index(model), candidates])
    found = np.array([disorder(*scores_of(generator, model, candidates), EDGES) for _ in range(5_000)])
    verdicts = [ends(generator, found) for _ in range(RUNS)]
    assert set(verdicts) == {"returned" if model == "noise" else "passed"}


def test_a_release_at_the_limit_is_returned_as_rarely_as_is_asked_for_however_often_it_looks() -> None:
    error, runs = 0.05, 400
    generator = np.random.default_rng(7)
    own = generator.beta(0.45 * 4, 0.55 * 4, (runs, 300))
    n, x, crossed = np.zeros(own.shape), np.zeros(own.shape), np.zeros(runs, np.bool_)
    for _ in range(30):
        more = generator.poisson(1.0, own.shape)
        n, x = n + more, x + generator.binomial(more, own)
        found = paired_difference((n, x), (n, 0 * x))
        crossed |= found.mean - found.bound(error, 0.05) > 0.45
    assert crossed.mean() <= error


def test_the_order_is_that_of_ranks_and_of_a_single_score_its_place() -> None:
    ascending = np.arange(5.0)
    assert disorder(ascending, np.exp(ascending), ()) == 0.0
    assert disorder(ascending, -ascending, ()) == 1.0
    assert disorder(ascending, np.ones(5), ()) == 0.5
    assert disorder(np.ones(5), np.ones(5), ()) == 0.0
    assert disorder(np.array([1.0, 1.0, 2.0]), np.array([1.0, 1.0, 2.0]), ()) == 0.0
    assert disorder(np.array([-9.0]), np.array([9.0]), EDGES) == 1.0
    assert disorder(np.array([0.0]), np.array([0.01]), EDGES) == 0.0
    assert np.isnan(disorder(np.array([0.0]), np.array([1.0]), ()))


def test_a_release_of_noise_that_has_the_right_distribution_never_answers_anybody(settings: Settings) -> None:
    two_releases(settings)
    begin(settings)
    until(settings, "shadow")
    answered(settings, 2000, first=5000, candidate={"noise": True})
    state = looked(settings)
    assert state.stage == "returned"
    assert [each.guard for each in state.step.compared if each.harmful] == ["order"]
    assert "order beside that of the current release" in state.why
    assert read_pointer(open_releases(settings, "ranking")).bad == (2,)


def test_requests_whose_id_comes_twice_prove_nothing_about_the_order(settings: Settings) -> None:
    two_releases(settings)
    begin(settings)
    until(settings, "shadow")
    answered(settings, 600, first=5000, request_id="the client's")
    state = looked(settings)
    assert (state.stage, state.step.verdict) == ("shadow", "waits")
    assert "0 of 100 requests are in the log with scores of both releases" in state.why
