"""A page of metrics in Prometheus's text format, version 0.0.4.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from collections.abc import Iterable, Sequence

from forecache.kit.metrics.metric import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels = tuple[str, ...]
"""Values of a metric's labels, in the order of its declaration."""
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class MetricsPage:
    """Builds a page, one metric at a time."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, metric: Metric, samples: Iterable[tuple[Labels, object]]) -> None:
        """Add a counter or gauge; without samples its help and type remain."""
        self._add_head(metric)
        self._lines += [f"{metric.name}{_format_labels(metric.labels, labels)} {value}" for labels, value in samples]

    def add_value(self, metric: Metric, value: object) -> None:
        """Add a counter or gauge without labels."""
        self.add(metric, [((), value)])

    def add_histogram(
        self, metric: Metric, bounds: Sequence[str], samples: Iterable[tuple[Labels, Sequence[int], object]]
    ) -> None:
        """Add a histogram.

        Args:
            bounds: Upper bounds of the buckets, in ascending order, as they are written.
            samples: Values of the labels; the observations in each bucket, beyond the last bound at the end; their sum.
        """
        self._add_head(metric)
        names = (*metric.labels, "le")
        for labels, counts, total in samples:
            below = 0
            for bound, count in zip((*bounds, "+Inf"), counts, strict=True):
                below += count
                self._lines.append(f"{metric.name}_bucket{_format_labels(names, (*labels, bound))} {below}")
            written = _format_labels(metric.labels, labels)
            self._lines += [f"{metric.name}_sum{written} {total}", f"{metric.name}_count{written} {below}"]

    def text(self) -> str:
        """The page; "" if nothing was added."""
        return "".join(f"{line}\n" for line in self._lines)

    def _add_head(self, metric: Metric) -> None:
        help_ = metric.help.replace("\\", r"\\").replace("\n", r"\n")
        self._lines += (f"# HELP {metric.name} {help_}", f"# TYPE {metric.name} {metric.kind}")


def _format_labels(names: Sequence[str], values: Sequence[str]) -> str:
    if not names:
        return ""
    return (
        "{" + ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in zip(names, values, strict=True)) + "}"
    )


def power_of_two_bounds(first: int, buckets: int) -> list[str]:
    """Bounds in seconds of a histogram whose bucket i counts durations below 2**i microseconds.

    Args:
        first: The first bucket that is shown; it includes those below it.
        buckets: Number of buckets, of which the last has no bound.
    """
    return [f"{2**bucket / 1e6:.6f}" for bucket in range(first, buckets - 1)]


def merge_first_buckets(first: int, counts: Sequence[int]) -> list[int]:
    """Counts of the buckets that `power_of_two_bounds` shows; those below `first` are added to it."""
    return [sum(counts[: first + 1]), *counts[first + 1 :]]
