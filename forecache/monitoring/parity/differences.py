"""How far the logged values of one column are from those computed again, in figures that add up over processes.

The figures are those of Chronon's online and offline consistency job. Quantiles are taken from buckets whose bounds
grow by a twelfth of a factor of two, as in DDSketch (Masson, Rim and Lee, VLDB 2019): 3 percent at most beside the true
ones, whatever is added in which order.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

_STEPS = 12
"""Buckets of one factor of two."""


@dataclass
class Differences:
    """One feature, or the scores.

    Attributes:
        values: Values that were compared.
        mismatch: Of these, how many have other bits; `missing` and `extra` are among them.
        missing: Logged as NaN, and a number when computed again.
        extra: Logged as a number, and NaN when computed again.
        pairs: Values that are finite numbers on both sides: sizes are about these.
        sum_abs, max_abs: Of the absolute differences.
        sum_smape: Of |a - b| / ((|a| + |b|) / 2).
        buckets: Absolute differences above zero, counted by their logarithm.
    """

    values: int = 0
    mismatch: int = 0
    missing: int = 0
    extra: int = 0
    pairs: int = 0
    sum_abs: float = 0.0
    max_abs: float = 0.0
    sum_smape: float = 0.0
    buckets: dict[int, int] = field(default_factory=dict)

    def add_equal(self, values: int, finite: int) -> None:
        """Count values that have the same bits, `finite` of them finite numbers."""
        self.values += values
        self.pairs += finite

    def add(self, logged: np.ndarray, offline: np.ndarray) -> None:
        """Count values [n] of the same type."""
        other = bits_of(logged) != bits_of(offline)
        unknown, unknown_offline = np.isnan(logged), np.isnan(offline)
        self.values += len(logged)
        self.mismatch += int(other.sum())
        self.missing += int((unknown & ~unknown_offline).sum())
        self.extra += int((~unknown & unknown_offline).sum())
        both = np.isfinite(logged) & np.isfinite(offline)
        self.pairs += int(both.sum())
        left, right = logged[both].astype(np.float64), offline[both].astype(np.float64)
        size, scale = np.abs(left - right), (np.abs(left) + np.abs(right)) / 2
        self.sum_abs += float(size.sum())
        self.max_abs = max(self.max_abs, float(size.max(initial=0.0)))
        self.sum_smape += float((size[scale > 0] / scale[scale > 0]).sum())
        places = np.ceil(np.log2(size[size > 0]) * _STEPS).astype(np.int64)
        for place, count in zip(*np.unique(places, return_counts=True), strict=True):
            self.buckets[int(place)] = self.buckets.get(int(place), 0) + int(count)

    def merge(self, other: "Differences") -> None:
        for name in ("values", "mismatch", "missing", "extra", "pairs", "sum_abs", "sum_smape"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.max_abs = max(self.max_abs, other.max_abs)
        for place, count in other.buckets.items():
            self.buckets[place] = self.buckets.get(place, 0) + count

    def quantile(self, share: float) -> float:
        """The absolute difference that this share of the pairs does not exceed."""
        left = share * self.pairs - (self.pairs - sum(self.buckets.values()))
        if left <= 0:
            return 0.0
        for place in sorted(self.buckets):
            left -= self.buckets[place]
            if left <= 0:
                return float(min(2.0 ** ((place - 0.5) / _STEPS), self.max_abs))
        return self.max_abs

    def figures(self) -> dict[str, Any]:
        """The figures as a row of a table has them."""
        pairs = max(1, self.pairs)
        return {
            "compared": self.values,
            "mismatch": self.mismatch,
            "missing": self.missing,
            "extra": self.extra,
            "mean_abs": self.sum_abs / pairs,
            "max_abs": self.max_abs,
            "smape": self.sum_smape / pairs,
            "p50_abs": self.quantile(0.5),
            "p90_abs": self.quantile(0.9),
            "p99_abs": self.quantile(0.99),
        }


def bits_of(values: np.ndarray) -> np.ndarray:
    """The bits of numbers as whole numbers, of the same shape."""
    return np.ascontiguousarray(values).view(f"<u{values.dtype.itemsize}")


def shown(value: Any) -> str:
    """A number for a message: its bits in hex, and in decimal the shortest text that reads back to them."""
    bits = bits_of(np.array([value]))[0]
    return f"0x{int(bits):0{2 * value.dtype.itemsize}x} ({value!s})"
