"""Figures on differences between logged and recomputed values of one column, which add up over processes.

The figures are those of Chronon's job for online/offline consistency. Quantiles are taken from buckets whose bounds
grow by a factor of 2**(1/12), as in DDSketch (Masson, Rim and Lee, VLDB 2019): their error is at most 3 percent, in
whichever order values are added.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

_STEPS = 12
"""Buckets within a factor of two."""


@dataclass
class Differences:
    """Differences of one feature, or of the scores.

    Attributes:
        values: Number of compared values.
        mismatch: Number of values with other bits, including `missing` and `extra`.
        missing: Values logged as NaN that are a number when computed again.
        extra: Values logged as a number that are NaN when computed again.
        pairs: Values that are finite on both sides; the following are about these.
        sum_abs, max_abs: Sum and largest of the absolute differences.
        sum_smape: Sum of |a - b| / ((|a| + |b|) / 2).
        buckets: Numbers of absolute differences above zero, by their logarithm.
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
        """Count values that have the same bits, of which `finite` are finite numbers."""
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
        """Return the absolute difference that this share of the pairs does not exceed."""
        left = share * self.pairs - (self.pairs - sum(self.buckets.values()))
        if left <= 0:
            return 0.0
        for place in sorted(self.buckets):
            left -= self.buckets[place]
            if left <= 0:
                return float(min(2.0 ** ((place - 0.5) / _STEPS), self.max_abs))
        return self.max_abs

    def figures(self) -> dict[str, Any]:
        """Return the figures as columns of the table of results."""
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
    """View numbers as unsigned integers with the same bits and shape."""
    return np.ascontiguousarray(values).view(f"<u{values.dtype.itemsize}")


def format_number(value: Any) -> str:
    """Format a number for a message: its bits in hex, and the shortest decimal that has these bits."""
    bits = bits_of(np.array([value]))[0]
    return f"0x{int(bits):0{2 * value.dtype.itemsize}x} ({value!s})"
