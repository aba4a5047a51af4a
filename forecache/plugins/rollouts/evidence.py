"""Sequential tests of the difference of two variants: their bounds hold however often the requests are looked at.

The unit is the key: it is assigned to a variant, and requests of one key depend on each other. So the variance of a
variant's mean is that over keys, of a ratio of sums (Cochran, "Sampling Techniques", 1977, section 6.4; Deng, Knoblich
and Lu, "Applying the Delta Method in Metric Analytics", KDD 2018).

A bound holds at all looks together: it is the asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy
and Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences", Annals of Statistics 2024 (first of
2021), in its one-sided form (appendix B), which is that of Robbins' normal mixture (1970). It is proved for independent
observations. If requests of a key agree more than those of different keys, the evidence of two looks is correlated
more, and by Slepian's inequality (1962) the bound is crossed more rarely, not more often.

The mean is one over many keys only if no key has most of the requests: a machine that sends a third of them is one key,
and its peculiarity would be taken for a difference of the releases. So a key counts for a limited share of its variant,
by the same number of requests in both.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from forecache.declare.realtime.rollout import Outcome
from forecache.plugins.rollouts.step_counts import GUARD, StepCounts
from forecache.realtime.release.rollout_state import GuardResult, RolloutState, Stage

LEAST_KEYS = 30
"""Least number of keys of each variant before it is judged: the bounds are asymptotic."""

_MOST_OF_A_KEY = 1 / LEAST_KEYS
"""Largest share of the requests of its variant that a key counts for."""

_SIZES = (1.0, 4.0, 16.0)
"""Sizes of harm, in multiples of the smallest that matters, with a bound each: large ones need far fewer requests."""

Floats = Any
"""A float, or an array of them: one for each of many simulated rollouts."""


@dataclass(frozen=True)
class KeySums:
    """Sums over the keys of a variant, of their numbers of requests n and sums of values x.

    Each may be an array, of many rollouts at once.
    """

    keys: Floats = 0.0
    n: Floats = 0.0
    x: Floats = 0.0
    nn: Floats = 0.0
    nx: Floats = 0.0
    xx: Floats = 0.0

    def __add__(self, other: "KeySums") -> "KeySums":
        return KeySums(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    @property
    def mean(self) -> Floats:
        """Mean value of all requests; 0 without requests."""
        return self.x / np.maximum(self.n, 1)

    @property
    def spread(self) -> Floats:
        """Sum over keys of the squared distance of their values from the mean."""
        mean = self.mean
        squares = np.maximum(self.xx - 2 * mean * self.nx + mean**2 * self.nn, 0.0)
        return squares * self.keys / np.maximum(self.keys - 1, 1)


def sums_of(n: np.ndarray, x: np.ndarray) -> KeySums:
    """The sums over keys of `n` and `x` [..., keys]; keys with n = 0 do not count."""
    n, x = np.asarray(n, np.float64), np.asarray(x, np.float64)
    return KeySums((n > 0).sum(-1), n.sum(-1), x.sum(-1), (n * n).sum(-1), (n * x).sum(-1), (x * x).sum(-1))


def max_requests_of_a_key(*variants: np.ndarray) -> np.ndarray:
    """The most requests of a key that count, in all variants alike, so that no key has more than a 30th of its variant.

    Different numbers in the variants would weigh heavy keys differently, which would be a difference by itself.

    Returns:
        [...]; infinity if a variant has fewer than `LEAST_KEYS` keys, which is not judged.
    """
    return np.minimum.reduce([_max_requests_in_variant(np.asarray(n, np.float64)) for n in variants])


def _max_requests_in_variant(n: np.ndarray) -> np.ndarray:
    if n.shape[-1] < LEAST_KEYS:
        return np.full(n.shape[:-1], np.inf)
    top = np.sort(n)[..., : -LEAST_KEYS - 1 : -1]
    # With the first j keys cut to c, the requests are `left[j] + j c`, and c is to be that share of them.
    left = n.sum(-1, keepdims=True) - np.cumsum(top, -1) + top
    cut = left * _MOST_OF_A_KEY / (1 - _MOST_OF_A_KEY * np.arange(LEAST_KEYS))
    first = np.argmax(top <= cut * (1 + 1e-9), -1)
    found = np.take_along_axis(cut, first[..., None], -1)[..., 0]
    return np.where(top[..., -1] > 0, found, np.inf)


def limit_keys(n: np.ndarray, x: np.ndarray, most: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Requests and sums of values by key [..., keys], scaled down to at most `most` requests of a key."""
    kept = np.minimum(n, np.asarray(most)[..., None])
    return kept, x * kept / np.maximum(n, 1)


@dataclass(frozen=True)
class MeanDifference:
    mean: Floats  # mean of the candidate less that of the current release
    variance: Floats  # variance of `mean`; infinite before there are `LEAST_KEYS` keys of each

    def bound(self, error: float, scale: Floats) -> Floats:
        """The largest distance of the difference from `mean` on one side, at all looks together.

        Args:
            error: Probability that it is ever further, on that side.
            scale: The size of the smallest difference that matters, for which the bound is tight; also an array. It is
                the smallest of three bounds, for differences of other sizes, which share the error.
        """
        bounds = [self._bound(error / len(_SIZES), size * np.asarray(scale, np.float64)) for size in _SIZES]
        return np.minimum.reduce(bounds)

    def _bound(self, error: float, scale: Floats) -> Floats:
        """The bound that is the tightest for differences of this size."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            known = scale**2 / self.variance
            squared = self.variance * (1 + known) / known * 2 * np.log1p(np.sqrt(1 + known) / (2 * error))
            return np.where(known > 0, np.sqrt(squared), np.inf)


def unpaired_difference(candidate: KeySums, current: KeySums, *, span: float = 1.0) -> MeanDifference:
    """The difference of two variants that have different keys.

    The variance is the larger of two: the separate and the pooled one. So a variant with few keys that happen to agree
    is not taken for one that is known well.

    Args:
        span: Range of a request's value. Each variant counts one more request at this distance from the mean, as
            Agresti and Caffo (American Statistician 2000) add for shares: the first few rare events prove nothing.
    """
    of_candidate, of_current = (each.spread + span**2 for each in (candidate, current))
    n, m = np.maximum(candidate.n, 1), np.maximum(current.n, 1)
    apart = of_candidate / n**2 + of_current / m**2
    pooled = (of_candidate + of_current) / (n + m) * (1 / n + 1 / m)
    enough = np.minimum(candidate.keys, current.keys) >= LEAST_KEYS
    variance = np.where(enough, np.maximum(apart, pooled), np.inf)
    return MeanDifference(candidate.mean - current.mean, variance)


def paired_difference(
    candidate: tuple[Floats, Floats], current: tuple[Floats, Floats], *, span: float = 1.0
) -> MeanDifference:
    """The difference of two releases that scored requests of the same keys; variation of keys cancels out."""
    (n, x), (m, y) = candidate, current
    n_all, m_all = np.maximum(n.sum(-1), 1), np.maximum(m.sum(-1), 1)
    mean, other = x.sum(-1) / n_all, y.sum(-1) / m_all
    influence = (x - mean[..., None] * n) / n_all[..., None] - (y - other[..., None] * m) / m_all[..., None]
    keys = ((n > 0) & (m > 0)).sum(-1)
    variance = (influence**2).sum(-1) * keys / np.maximum(keys - 1, 1) + span**2 / n_all**2
    return MeanDifference(mean - other, np.where(keys >= LEAST_KEYS, variance, np.inf))


def has_split_mismatch(in_variant: Floats, keys: Floats, share: float, *, error: float) -> Any:
    """Tell if the share of keys in a variant is proved to differ from the declared one (sample ratio mismatch).

    The e-process of Lindon and Malek, "Anytime-Valid Inference for Multinomial Count Data", NeurIPS 2022: keys come one
    by one, each in the variant with probability `share`, against a beta mixture around it.
    """
    from scipy.special import betaln

    a, b = 100 * share, 100 * (1 - share)
    out = keys - in_variant
    log = betaln(a + in_variant, b + out) - betaln(a, b) - in_variant * np.log(share) - out * np.log1p(-share)
    return log >= np.log(1 / error)


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
    """The difference in a guard's harmful direction, its bound, and the tolerated difference."""
    if name == "outcome":
        outcome = Outcome(**plan["outcome"])
        harm = found.mean * (-1 if outcome.better == "more" else 1)
        return harm, found.bound(error, outcome.finds * base), outcome.tolerated * base
    tolerated = plan["guards"][name]
    scale = max(_BY_CHANCE - tolerated if name == "order" else tolerated, _LEAST_SCALE)
    if name in TWO_SIDED:
        return np.abs(found.mean), found.bound(error / 2, scale), tolerated
    return found.mean, found.bound(error, scale), tolerated
