"""Quantiles of durations that were counted in buckets of powers of two."""

from collections.abc import Sequence


def quantile_us(counts: Sequence[int], share: float) -> float | None:
    """The duration in microseconds that a share of the observations does not exceed; None without observations.

    Like Prometheus's `histogram_quantile`, it assumes that the observations of a bucket are evenly spread.

    Args:
        counts: Of bucket i, the observations of at least 2**(i-1) and less than 2**i microseconds.
        share: In (0, 1].
    """
    total = sum(counts)
    if not total:
        return None
    wanted, below = share * total, 0
    for bucket, count in enumerate(counts):
        if count and below + count >= wanted:
            low, high = (2 ** (bucket - 1) if bucket else 0), 2**bucket
            return low + (high - low) * (wanted - below) / count
        below += count
    return float(2 ** len(counts))
