"""A page of metrics in Prometheus's text format, version 0.0.4, written by Prometheus's own library."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta, timezone
from itertools import accumulate
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from forecache.kit.metrics.metric import METRICS, Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels = str | tuple[str, ...]
"""Values of a metric's labels, in the order of its declaration; those of a single one may stand alone."""
T = TypeVar("T")


class MetricsPage(Collector):
    """Builds a page, one declared metric at a time."""

    def __init__(self) -> None:
        self._families: list[Family] = []

    def add(self, name: str, samples: Iterable[tuple[Labels, float | None]]) -> None:
        """Add a counter or gauge; without samples, or with none that has a value, its help and type remain."""
        metric = METRICS[name]
        family_type = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
        family = family_type(name, metric.help, labels=metric.labels)
        for labels, value in samples:
            if value is not None:
                family.add_metric(_check_labels(metric, labels), value)
        self._families.append(family)

    def add_values(self, values: Iterable[tuple[str, float]]) -> None:
        """Add counters and gauges without labels, by their names."""
        for name, value in values:
            self.add(name, [((), value)])

    def add_each(self, things: Iterable[tuple[Labels, T]], values: Mapping[str, Callable[[T], float | None]]) -> None:
        """Add several metrics, each with a sample for every thing that it has a value for."""
        shown = list(things)
        for name, value_of in values.items():
            self.add(name, ((labels, value_of(thing)) for labels, thing in shown))

    def add_histogram(
        self, name: str, bounds: Sequence[str], samples: Iterable[tuple[Labels, Sequence[int], float]]
    ) -> None:
        """Add a histogram: labels, observations by bucket with those beyond all bounds at the end, and their sum."""
        metric = METRICS[name]
        family = HistogramMetricFamily(name, metric.help, labels=metric.labels)
        for labels, counts, total in samples:
            buckets = zip((*bounds, "+Inf"), accumulate(counts), strict=True)
            family.add_metric(_check_labels(metric, labels), list(buckets), total)
        self._families.append(family)

    def collect(self) -> Iterator[Family]:
        """Yield the metrics; the library's name for it."""
        return iter(self._families)

    def text(self) -> str:
        return generate_latest(self).decode()


def _check_labels(metric: Metric, labels: Labels) -> tuple[str, ...]:
    values = (labels,) if isinstance(labels, str) else labels
    if len(values) != len(metric.labels):
        raise ValueError(f"{metric.name} has the labels {metric.labels}, not {len(values)} of them.")
    return values


def six_digits(value: float | None) -> float | None:
    """A number rounded to six significant digits; None without one."""
    return None if value is None else float(f"{value:.6g}")


def power_of_two_bounds(first: int, buckets: int) -> list[str]:
    """Bounds in seconds from bucket `first` on: bucket i has durations below 2**i microseconds, the last all."""
    return [f"{2**bucket / 1e6:.6f}" for bucket in range(first, buckets - 1)]


def merge_first_buckets(first: int, counts: Sequence[int]) -> list[int]:
    """Counts of the buckets that `power_of_two_bounds` shows; those below `first` are added to it."""
    return [sum(counts[: first + 1]), *counts[first + 1 :]]


def unix_seconds(at: datetime | None) -> float:
    """Whole seconds; not a number for None."""
    return float("nan") if at is None else round(at.timestamp())


def end_of_date(night: date | None) -> float | None:
    """Unix time of the midnight (UTC) that ends a date."""
    if night is None:
        return None
    return unix_seconds(datetime(night.year, night.month, night.day, tzinfo=timezone.utc) + timedelta(days=1))
