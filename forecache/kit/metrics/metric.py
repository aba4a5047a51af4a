"""The declaration of a metric by Prometheus's conventions: name, type, help and labels.

Source of the conventions: https://prometheus.io/docs/practices/naming/
"""

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_NO_BASE_UNIT = re.compile(r"_(ms|us|ns|milliseconds|microseconds|minutes|hours|days|kb|mb|gb|percent)(_|$)")
_UNITS = ("seconds", "bytes", "ratio", "info")


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: Name in base units; a counter's ends in `_total`.
        help: Meaning of the metric, as a sentence.
        labels: Names of its labels, in the order that samples give their values.

    Raises:
        ValueError: The name does not follow the conventions.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (self.name, *self.labels):
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a metric or label: use lower case, digits and underscores.")
        if (self.kind == "counter") != self.name.endswith("_total"):
            raise ValueError(f"{self.name} is a {self.kind}: names of counters end in _total, and no others do.")
        if found := _NO_BASE_UNIT.search(self.name):
            raise ValueError(f"{self.name} has the unit {found[1]}: use seconds, bytes or a ratio of 1.")

    @property
    def unit(self) -> str:
        """The unit that the name ends in; "" for plain numbers."""
        last = self.name.removesuffix("_total").rpartition("_")[2]
        return last if last in _UNITS else ""


def counter(name: str, help_: str, *labels: str) -> Metric:
    """Declare a number that only grows, from 0 at the start of the process that counts."""
    return Metric(name, "counter", help_, labels)


def gauge(name: str, help_: str, *labels: str) -> Metric:
    """Declare a number that goes up and down."""
    return Metric(name, "gauge", help_, labels)


def histogram(name: str, help_: str, *labels: str) -> Metric:
    """Declare counts of observations up to bounds, their sum, and their number."""
    return Metric(name, "histogram", help_, labels)
