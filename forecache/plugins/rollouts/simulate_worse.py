"""Simulated rollouts of a release with worse outcomes: the number of requests until it is returned, if it is.

They take the declared steps, and the controller's own code decides at each look.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
from numpy.random import Generator

from forecache.declare.realtime.rollout import Outcome, Rollout
from forecache.plugins.rollouts.evidence import LEAST_KEYS, KeySums, compare_guard, errors_of, unpaired_difference
from forecache.plugins.rollouts.judge_step import StepTotals, decide_step, next_step
from forecache.realtime.release.rollout_state import RolloutState, RolloutStep, Stage

BEGAN = datetime(2026, 1, 1, tzinfo=timezone.utc)
_GROWTH = 1.1
"""Growth of a step's requests from one look to the next."""


@dataclass(frozen=True)
class SimulatedTraffic:
    """Simulated requests to a model, by keys."""

    rate: float = 0.05  # mean outcome of a request with the current release
    requests_per_key: float = 4.0  # mean, of a geometric distribution
    alike: float = 0.05  # intra-class correlation of the requests of a key (of a beta-binomial), from 0 to below 1
    per_hour: float = 100_000.0  # requests an hour
    heaviest: float = 0.0  # share of all requests that one key has; only `simulate_equal_release` uses it


@dataclass(frozen=True)
class WorseRolloutResult:
    """Results of simulated rollouts with a harm, [runs] each."""

    returned: np.ndarray  # the release was returned
    passed: np.ndarray  # the release became current; if neither is true, the rollout still waits
    requests: np.ndarray  # requests of both variants in all canary steps whose outcome was known in the end
    hours: np.ndarray  # duration of the canary steps

    @property
    def returned_share(self) -> float:
        return float(self.returned.mean())

    def quantile(self, share: float) -> float:
        """Number of requests within which this share of all rollouts was returned; infinity if fewer were."""
        return self._quantile(self.requests, share)

    def hours_quantile(self, share: float) -> float:
        """Hours within which this share of all rollouts was returned; infinity if fewer were."""
        return self._quantile(self.hours, share)

    def _quantile(self, taken: np.ndarray, share: float) -> float:
        until = np.sort(np.where(self.returned, taken, np.inf))
        return float(until[max(0, int(np.ceil(share * len(until))) - 1)])


def simulate_worse_release(
    traffic: SimulatedTraffic,
    harm: float,
    *,
    rollout: Rollout | None = None,
    runs: int = 200,
    most: int = 20_000_000,
    seed: int = 1,
) -> WorseRolloutResult:
    """Simulate the canary steps of rollouts whose candidate's outcome is lower by the relative `harm`.

    Nothing else differs. A/A and shadow, which compare no outcomes, are left out. Every look has new keys, whose
    requests lie within it. The numbers of keys by requests and outcomes are drawn from the multinomial distribution
    of all kinds of keys, which is exact: no key is simulated by itself, and none is heavy enough to be limited.

    Args:
        most: Requests of a step with known outcomes after which a rollout is given up.
    """
    declared = rollout or Rollout(outcome=Outcome("orders", "bought"))
    assert declared.outcome is not None
    assert declared.outcome.better == "more"
    generator = np.random.default_rng(seed)
    kinds, chances = _key_kinds(traffic, traffic.rate)
    _, of_candidate = _key_kinds(traffic, traffic.rate * (1 - harm))
    found = np.array([
        _simulate_rollout(generator, declared, traffic, kinds, (chances, of_candidate), most) for _ in range(runs)
    ])  # fmt: skip
    returned, passed, requests, hours = found.T
    return WorseRolloutResult(returned > 0, passed > 0, requests, hours)


def harm_table(traffic: SimulatedTraffic, harms: Sequence[float], **options: Any) -> list[dict[str, float]]:
    """One row for each relative harm: shares of results, and requests until half and 9 of 10 are returned."""
    rows = []
    for harm in harms:
        found = simulate_worse_release(traffic, harm, **options)
        rows.append({
            "harm": harm, "returned": found.returned_share, "passed": float(found.passed.mean()),
            "median": found.quantile(0.5), "in_90_of_100": found.quantile(0.9),
            "median_hours": found.hours_quantile(0.5),
        })  # fmt: skip
    return rows


def simulated_state(rollout: Rollout, stage: Stage, share: float) -> RolloutState:
    began = BEGAN.isoformat()
    return RolloutState(
        "simulated", 2, 1, stage, share, began, asdict(rollout), steps=(RolloutStep(stage, share, began),)
    )


def _simulate_rollout(
    generator: Generator,
    rollout: Rollout,
    traffic: SimulatedTraffic,
    kinds: np.ndarray,
    chances: tuple[np.ndarray, np.ndarray],
    most: int,
) -> tuple[bool, bool, float, float]:
    """Simulate one rollout: (returned, passed, requests and hours until then)."""
    requests = hours = 0.0
    after: tuple[Stage, float] | None = ("canary", rollout.shares[0])
    while after is not None:
        state = simulated_state(rollout, *after)
        verdict, more, longer = _simulate_step(generator, state, traffic, kinds, chances, most)
        requests, hours = requests + more, hours + longer
        if verdict != "passed":
            return verdict == "returned", False, requests, hours
        after = next_step(state)
    return False, True, requests, hours


def _simulate_step(
    generator: Generator,
    state: RolloutState,
    traffic: SimulatedTraffic,
    kinds: np.ndarray,
    chances: tuple[np.ndarray, np.ndarray],
    most: int,
) -> tuple[str, float, float]:
    """Simulate a step: (verdict, requests with known outcomes, hours)."""
    error, horizon = errors_of(state.plan, state.stage)["outcome"], state.plan["outcome"]["horizon_h"]
    current = other = KeySums()
    hours = 0.0
    for more in np.diff(_keys_at_looks(state, traffic, most), prepend=0):
        in_variant = generator.binomial(more, state.share)
        current += _draw_sums(generator, more - in_variant, kinds, chances[0])
        other += _draw_sums(generator, in_variant, kinds, chances[1])
        hours = (current.n + other.n) / traffic.per_hour + horizon
        requests, keys = (int(current.n), int(other.n)), (int(current.keys), int(other.keys))
        compared = compare_guard(state.plan, "outcome", unpaired_difference(other, current), other, current, error)
        # Requests whose outcome is not known yet come on top; the outcome is the last condition to be met.
        verdict = decide_step(
            state, StepTotals(requests, keys, keys, requests), (compared,), now=BEGAN + timedelta(hours=hours)
        )
        if verdict.verdict != "waits":
            return verdict.verdict, float(sum(requests)), hours
    return "waits", float(current.n + other.n), hours


def _keys_at_looks(state: RolloutState, traffic: SimulatedTraffic, most: int) -> np.ndarray:
    """Keys of both variants at each look: growing, and denser around the first look at which a step may be passed."""
    smaller = min(state.share, 1 - state.share)
    first = LEAST_KEYS * traffic.requests_per_key / smaller
    least = state.plan["requests"] / smaller
    in_time = traffic.per_hour * max(0.0, state.plan["hours"] - state.plan["outcome"]["horizon_h"])
    near = np.multiply.outer([least, in_time], np.linspace(0.95, 1.1, 7)).ravel()
    looks = max(2, int(np.log(most / first) / np.log(_GROWTH)))
    requests = np.concatenate([np.geomspace(first, most, looks), near[(near > first) & (near < most)]])
    return np.unique((requests / traffic.requests_per_key).astype(np.int64))


def _key_kinds(traffic: SimulatedTraffic, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """All kinds of keys by requests and outcomes [kinds, 2], up to a rare number of requests, with probabilities."""
    from scipy.stats import betabinom, binom, geom

    longest = int(geom.ppf(0.999, 1 / traffic.requests_per_key))
    kinds, chances = [], []
    for n in range(1, longest + 1):
        x = np.arange(n + 1)
        if traffic.alike:
            a = rate * (1 / traffic.alike - 1)
            among = betabinom.pmf(x, n, a, (1 - rate) / rate * a)
        else:
            among = binom.pmf(x, n, rate)
        kinds += [(n, each) for each in x]
        chances += list(among * geom.pmf(n, 1 / traffic.requests_per_key))
    return np.array(kinds, np.float64), np.array(chances) / np.sum(chances)


def _draw_sums(generator: Generator, keys: int, kinds: np.ndarray, chances: np.ndarray) -> KeySums:
    counts = generator.multinomial(keys, chances)
    n, x = kinds[:, 0], kinds[:, 1]
    return KeySums(float(keys), *(float(counts @ each) for each in (n, x, n * n, n * x, x * x)))
