"""The best rate of a server: the highest at which its answers keep to limits, found by tries and then measured."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MOST_LOWER = 0.001
"""Of our answers at the best rate, those that may have an item of a fallback."""
_STEP, _CLOSE, _BACK = 1.6, 1.06, 0.95
_MOST_BACK = 6


@dataclass(frozen=True)
class Limits:
    """What the answers of a run keep to; None: any."""

    p99_ms: float
    p999_ms: float | None = None

    def times(self, factor: float) -> "Limits":
        """So many times wider ones."""
        return Limits(self.p99_ms * factor, self.p999_ms and self.p999_ms * factor)

    def met_by(self, figures: dict[str, Any]) -> bool:
        """Whether every request was answered with 200, in time, and but for one in a thousand by the model."""
        slow = self.p999_ms is not None and figures["p999_ms"] > self.p999_ms
        return (
            figures["failed"] == 0
            and figures.get("lower_share", 0.0) <= MOST_LOWER
            and figures["p99_ms"] <= self.p99_ms
            and not slow
        )


OURS = "Forecache"
LIMITS = Limits(p99_ms=5.0, p999_ms=15.0)
"""What our answers keep to at the rate that is published."""

Run = Callable[[float], dict[str, Any]]
"""Figures of a run at a rate."""


def search(run: Run, limits: Limits, *, first: float, least: float = 20.0, tries: int = 2) -> float:
    """The highest rate that a short run holds, to some 6 percent; 0.0: none from `least` on.

    Args:
        tries: A run that misses the limits is made again, up to so many in all: once in a second the kernel of a small
            machine may hold a core for some milliseconds, which a short run meets more often or less.
    """

    def holds(rate: float) -> bool:
        return any(limits.met_by(run(rate)) for _ in range(tries))

    good, bad = 0.0, 0.0
    rate = first
    while not bad or not good:
        if holds(rate):
            good = rate
            if not bad:
                rate *= _STEP
        else:
            bad = rate
            if not good:
                rate /= _STEP
                if rate < least:
                    return 0.0
    while bad / good > _CLOSE:
        rate = (good * bad) ** 0.5
        if holds(rate):
            good = rate
        else:
            bad = rate
    return good


def measured(run: Run, limits: Limits, rate: float, times: int) -> list[dict[str, Any]]:
    """Longer runs at the highest rate, from `rate` down, of which most keep to the limits; [] where there is none.

    Each step down is longer than the one before: a machine that others slow down may hold much less than it did before.
    """
    for missed in range(1, _MOST_BACK + 1):
        runs: list[dict[str, Any]] = []
        slow = 0
        while len(runs) < times and slow * 2 < times:  # what cannot be most any more is not run
            runs.append(run(rate))
            slow += not limits.met_by(runs[-1])
        if slow * 2 < times:
            return runs
        rate *= _BACK**missed
    return []
