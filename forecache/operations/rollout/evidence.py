"""What the requests of two arms prove, by a test that may be looked at after every request.

The unit is the key: it is assigned to an arm, and requests of one key depend on each other. So the variance of an arm's
mean is that over keys, of a ratio of sums (Cochran, "Sampling Techniques", 1977, section 6.4; Deng, Knoblich and Lu,
"Applying the Delta Method in Metric Analytics", KDD 2018).

A bound holds at all looks together: it is the asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy
and Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences", Annals of Statistics 2024 (first of
2021), in its one-sided form (appendix B), which is that of Robbins' normal mixture (1970). It is proved for independent
observations. Where requests of a key agree more than those of others do, the evidence of two looks is correlated more
than there, and by Slepian's inequality (1962) the bound is crossed more rarely, not more often.

Such a mean is of many keys only where no key has most of the requests: a machine that sends a third of them is one key,
and whatever sets it apart would be taken for a difference of the releases. So a key counts for a limited share of its
arm, by the same number of requests in both.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

LEAST_KEYS = 30
"""Of each arm, before it is judged at all: the bounds are asymptotic."""

_MOST_OF_A_KEY = 1 / LEAST_KEYS
"""A key counts for at most this share of the requests of its arm."""

_SIZES = (1.0, 4.0, 16.0)
"""A harm that is many times the smallest one that matters is to be found in much fewer requests."""

Floats = Any
"""A float, or an array of them: one for each of many simulated rollouts."""


@dataclass(frozen=True)
class Sums:
    """What is known of one value of the requests of an arm: sums over keys, of numbers of requests n and values x.

    Each may be an array, of many rollouts at once.
    """

    keys: Floats = 0.0
    n: Floats = 0.0
    x: Floats = 0.0
    nn: Floats = 0.0
    nx: Floats = 0.0
    xx: Floats = 0.0

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    @property
    def mean(self) -> Floats:
        """Of the values of all requests; 0 without requests."""
        return self.x / np.maximum(self.n, 1)

    @property
    def spread(self) -> Floats:
        """Sum over keys of the squared distance of their values from the mean."""
        mean = self.mean
        squares = np.maximum(self.xx - 2 * mean * self.nx + mean**2 * self.nn, 0.0)
        return squares * self.keys / np.maximum(self.keys - 1, 1)


def sums_of(n: np.ndarray, x: np.ndarray) -> Sums:
    """The sums of keys; `n` and `x` [..., keys], of which those with n = 0 do not count."""
    n, x = np.asarray(n, np.float64), np.asarray(x, np.float64)
    return Sums((n > 0).sum(-1), n.sum(-1), x.sum(-1), (n * n).sum(-1), (n * x).sum(-1), (x * x).sum(-1))


def most_of_a_key(*arms: np.ndarray) -> np.ndarray:
    """So many requests of a key count, in all arms alike, that no key has more than a 30th of those of its arm.

    Another number in each arm would weigh keys with many requests differently, which would be a difference by itself.

    Args:
        arms: Requests by key of each arm, [..., keys].

    Returns:
        [...]; infinity where an arm has fewer than `LEAST_KEYS` keys, which is not judged.
    """
    return np.minimum.reduce([_most_in(np.asarray(n, np.float64)) for n in arms])


def _most_in(n: np.ndarray) -> np.ndarray:
    if n.shape[-1] < LEAST_KEYS:
        return np.full(n.shape[:-1], np.inf)
    top = np.sort(n)[..., : -LEAST_KEYS - 1 : -1]
    # With the first j keys cut to c, the requests are `left[j] + j c`, and c is to be that share of them.
    left = n.sum(-1, keepdims=True) - np.cumsum(top, -1) + top
    cut = left * _MOST_OF_A_KEY / (1 - _MOST_OF_A_KEY * np.arange(LEAST_KEYS))
    first = np.argmax(top <= cut * (1 + 1e-9), -1)
    found = np.take_along_axis(cut, first[..., None], -1)[..., 0]
    return np.where(top[..., -1] > 0, found, np.inf)


def limited(n: np.ndarray, x: np.ndarray, most: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of requests and sums of values by key [..., keys], of which at most so many requests of a key count."""
    kept = np.minimum(n, np.asarray(most)[..., None])
    return kept, x * kept / np.maximum(n, 1)


@dataclass(frozen=True)
class Difference:
    """A difference of two means.

    Attributes:
        mean: Of the candidate, less that of the current release.
        variance: Of `mean`; infinite before there are `LEAST_KEYS` of each.
    """

    mean: Floats
    variance: Floats

    def bound(self, error: float, scale: Floats) -> Floats:
        """How far the difference may be from `mean` on one side, at all looks together.

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


def difference(candidate: Sums, current: Sums, *, span: float = 1.0) -> Difference:
    """Of two arms whose keys are others.

    The variance is the larger of two: with that of each arm, and with that of both, as if they were equal. An arm
    with few keys that happen to agree is thereby not taken for one that is known well.

    Args:
        span: From the smallest to the largest value of a request. Each arm counts one more request that is so far from
            the mean, as Agresti and Caffo (American Statistician 2000) add for shares: nothing is proved by the first
            few of what is rare.
    """
    of_candidate, of_current = (each.spread + span**2 for each in (candidate, current))
    n, m = np.maximum(candidate.n, 1), np.maximum(current.n, 1)
    apart = of_candidate / n**2 + of_current / m**2
    pooled = (of_candidate + of_current) / (n + m) * (1 / n + 1 / m)
    enough = np.minimum(candidate.keys, current.keys) >= LEAST_KEYS
    variance = np.where(enough, np.maximum(apart, pooled), np.inf)
    return Difference(candidate.mean - current.mean, variance)


def paired(candidate: tuple[Floats, Floats], current: tuple[Floats, Floats], *, span: float = 1.0) -> Difference:
    """Of keys that both releases have scored the requests of: what they share of a key's values is no difference.

    Args:
        candidate, current: Numbers of requests and sums of their values by key, each [..., keys].
    """
    (n, x), (m, y) = candidate, current
    n_all, m_all = np.maximum(n.sum(-1), 1), np.maximum(m.sum(-1), 1)
    mean, other = x.sum(-1) / n_all, y.sum(-1) / m_all
    influence = (x - mean[..., None] * n) / n_all[..., None] - (y - other[..., None] * m) / m_all[..., None]
    keys = ((n > 0) & (m > 0)).sum(-1)
    variance = (influence**2).sum(-1) * keys / np.maximum(keys - 1, 1) + span**2 / n_all**2
    return Difference(mean - other, np.where(keys >= LEAST_KEYS, variance, np.inf))


def split_is_off(in_arm: Floats, keys: Floats, share: float, *, error: float) -> Any:
    """Whether the share of keys in an arm is proved to be another one than was asked for (sample ratio mismatch).

    The e-process of Lindon and Malek, "Anytime-Valid Inference for Multinomial Count Data", NeurIPS 2022: keys come one
    by one, each in the arm with probability `share`, against a beta mixture around it.

    Args:
        in_arm: Keys in the arm, of `keys` in all.
    """
    from scipy.special import betaln

    a, b = 100 * share, 100 * (1 - share)
    out = keys - in_arm
    log = betaln(a + in_arm, b + out) - betaln(a, b) - in_arm * np.log(share) - out * np.log1p(-share)
    return log >= np.log(1 / error)
