"""Simulated rollouts: how many requests it takes until a harm is found, and how often an equal release is returned.

They are judged by the code that judges real ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.random import Generator

from forecache.operations.rollout.evidence import Sums, difference, limited, most_of_a_key, split_is_off, sums_of
from forecache.operations.rollout.judge import errors_of, harm_of
from forecache.pipeline.realtime.rollout import Outcome, Rollout
from forecache.realtime.rollout.state import Stage


@dataclass(frozen=True)
class Traffic:
    """Requests of keys, as they come to a model.

    Attributes:
        rate: Mean of the outcome of a request by the current release, such as 0.05 where 5 percent lead to a purchase.
        requests_per_key: Mean, of a geometric distribution.
        alike: How much requests of a key agree (intra-class correlation of a beta-binomial), 0 to below 1.
        heaviest: Share of all requests that are of one key, such as of a machine; `equal` regards it.
    """

    rate: float = 0.05
    requests_per_key: float = 4.0
    alike: float = 0.05
    heaviest: float = 0.0


@dataclass(frozen=True)
class Found:
    """When rollouts with a harm were stopped.

    Attributes:
        requests: Until each was stopped, both arms together, ascending; infinity for those that were not.
    """

    requests: np.ndarray

    def quantile(self, share: float) -> float:
        """Requests within which this share of the rollouts was stopped; infinity if fewer were."""
        return float(self.requests[min(int(np.ceil(share * len(self.requests))) - 1, len(self.requests) - 1)])

    @property
    def share(self) -> float:
        return float(np.isfinite(self.requests).mean())


def stopped(
    traffic: Traffic,
    harm: float,
    *,
    rollout: Rollout | None = None,
    share: float = 0.5,
    runs: int = 200,
    most: int = 20_000_000,
    looks: int = 120,
    seed: int = 1,
) -> Found:
    """Rollouts at one step whose candidate has an outcome that is lower by the relative `harm`.

    Every look has new keys, whose requests lie within it. How many keys have how many requests and outcomes is drawn
    from the multinomial distribution of all kinds of keys, which is exact: no key is simulated by itself.

    Args:
        share: Of keys that the candidate answers.
        most: Requests after which one is given up.
        looks: At how many moments the controller looks, evenly spread in the logarithm of the requests.
    """
    plan = _plan(rollout or Rollout(outcome=Outcome("orders", "bought")))
    generator = np.random.default_rng(seed)
    kinds, chances = _kinds(traffic, traffic.rate)
    _, chances_of_candidate = _kinds(traffic, traffic.rate * (1 - harm))
    error = errors_of(plan, "canary")["outcome"]
    keys = np.unique(np.geomspace(50, most / traffic.requests_per_key, looks).astype(np.int64))
    other, current = Sums(*np.zeros((6, runs))), Sums(*np.zeros((6, runs)))
    requests = np.full(runs, np.inf)
    for more in np.diff(keys, prepend=0):
        in_arm = generator.binomial(more, share, runs)
        other = other + _drawn(generator, in_arm, kinds, chances_of_candidate)
        current = current + _drawn(generator, more - in_arm, kinds, chances)
        found, bound, tolerated = harm_of(plan, "outcome", difference(other, current), current.mean, error)
        now = (found - bound > tolerated) & np.isinf(requests)
        requests[now] = (other.n + current.n)[now]
        if np.isfinite(requests).all():
            break
    return Found(np.sort(requests))


@dataclass(frozen=True)
class Equal:
    """Rollouts of a release that is like the current one.

    Attributes:
        runs: How many.
        returned, paused: How many were returned, or paused for a split or measurement that is not sound, all wrongly.
        by: The same by guard.
    """

    runs: int
    returned: int
    paused: int
    by: Mapping[str, int] = field(default_factory=dict)

    @property
    def wrong(self) -> int:
        return self.returned + self.paused


def equal(
    traffic: Traffic,
    *,
    rollout: Rollout | None = None,
    runs: int = 1_000,
    keys: int = 200,
    looks: int = 10,
    seed: int = 1,
) -> Equal:
    """Whole rollouts, A/A and each share, of a release that is like the current one.

    The same keys come back in every look, with all guards and an outcome: what is dependent stays so over the steps.

    Args:
        looks: Of each step.
    """
    declared = rollout or Rollout(outcome=Outcome("orders", "bought"))
    plan, generator = _plan(declared), np.random.default_rng(seed)
    rates = {"without_model": 0.005, "late": 0.01, "slow": 0.05, "score_level": 0.5, "outcome": traffic.rate}
    own = {name: _rates_of_keys(generator, rate, traffic.alike, (runs, keys)) for name, rate in rates.items()}
    mean = np.full(keys, traffic.requests_per_key)
    mean[0] += traffic.heaviest / (1 - traffic.heaviest) * mean.sum()
    buckets = generator.random((runs, keys))
    first: dict[str, np.ndarray] = {}
    over = np.zeros(runs, np.bool_)
    steps: list[tuple[Stage, float]] = [("aa", declared.aa_share)]
    steps += [("canary", share) for share in declared.shares]
    for stage, share in steps:
        in_arm = buckets < share
        errors = errors_of(plan, stage)
        n = np.zeros((runs, keys))
        x = {name: np.zeros((runs, keys)) for name in rates}
        for _ in range(looks):
            more = generator.poisson(mean, (runs, keys))
            n += more
            for name in rates:
                x[name] += generator.binomial(more, own[name])
            most = most_of_a_key(*(np.where(arm, n, 0) for arm in (in_arm, ~in_arm)))
            for name in [each for each in errors if each in rates]:
                counted = limited(n, x[name], most)
                arms = [sums_of(*(np.where(arm, each, 0) for each in counted)) for arm in (in_arm, ~in_arm)]
                found, bound, tolerated = harm_of(plan, name, difference(*arms), arms[1].mean, errors[name])
                now = (found - bound > tolerated) & ~over
                first[f"{stage} {name}"] = first.get(f"{stage} {name}", 0) + now
                over |= now
            there = n > 0
            now = split_is_off((in_arm & there).sum(1), there.sum(1), share, error=errors["split"]) & ~over
            first[f"{stage} split"] = first.get(f"{stage} split", 0) + now
            over |= now
    by = {name: int(np.sum(each)) for name, each in first.items() if np.sum(each)}
    paused = sum(count for name, count in by.items() if name.startswith("aa ") or name.endswith(" split"))
    return Equal(runs, sum(by.values()) - paused, paused, by)


def table(traffic: Traffic, harms: Sequence[float], **options: Any) -> list[dict[str, float]]:
    """For each relative harm, the requests until it is found: median and 90 percent of the rollouts."""
    rows = []
    for harm in harms:
        found = stopped(traffic, harm, **options)
        rows.append(
            {"harm": harm, "median": found.quantile(0.5), "in_90_of_100": found.quantile(0.9), "found": found.share}
        )
    return rows


def _plan(rollout: Rollout) -> dict[str, Any]:
    return asdict(rollout)


def _kinds(traffic: Traffic, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """All kinds of keys by requests and outcomes [kinds, 2], up to a rare number of requests; how likely each is."""
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


def _drawn(generator: Generator, keys: np.ndarray, kinds: np.ndarray, chances: np.ndarray) -> Sums:
    """Sums of so many keys [runs]."""
    counts = generator.multinomial(keys, chances)
    n, x = kinds[:, 0], kinds[:, 1]
    return Sums(keys.astype(np.float64), *(counts @ each for each in (n, x, n * n, n * x, x * x)))


def _rates_of_keys(generator: Generator, rate: float, alike: float, shape: tuple[int, int]) -> np.ndarray:
    if not alike:
        return np.full(shape, rate)
    scale = 1 / alike - 1
    return generator.beta(rate * scale, (1 - rate) * scale, shape)
