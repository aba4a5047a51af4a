"""The declared metrics by Prometheus's conventions, and their glossary as Markdown.

Source of the conventions: https://prometheus.io/docs/practices/naming/
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_NO_BASE_UNIT = re.compile(r"_(ms|us|ns|milliseconds|microseconds|minutes|hours|days|kb|mb|gb|percent)(_|$)")


@dataclass(frozen=True)
class Metric:
    """One metric; a ValueError if its name does not follow the conventions."""

    name: str  # in base units; a counter's ends in `_total`
    kind: Kind
    help: str  # a sentence
    labels: tuple[str, ...] = ()  # in the order in which samples give their values

    def __post_init__(self) -> None:
        for name in (self.name, *self.labels):
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a metric or label: use lower case, digits and underscores.")
        if (self.kind == "counter") != self.name.endswith("_total"):
            raise ValueError(f"{self.name} is a {self.kind}: names of counters end in _total, and no others do.")
        if found := _NO_BASE_UNIT.search(self.name):
            raise ValueError(f"{self.name} has the unit {found[1]}: use seconds, bytes or a ratio of 1.")


@dataclass(frozen=True)
class Part:
    """The metrics of one part of Forecache."""

    title: str
    about: str
    metrics: tuple[Metric, ...]


def _read_parts() -> Iterator[Part]:
    for part in json.loads(Path(__file__).with_name("declared.json").read_text()):
        declared = (Metric(name, kind, help_, tuple(labels)) for name, kind, labels, help_ in part["metrics"])
        yield Part(part["title"], part["about"], tuple(declared))


PARTS = tuple(_read_parts())
METRICS = {metric.name: metric for part in PARTS for metric in part.metrics}
"""Every metric by its name."""


def render_glossary() -> str:
    """The glossary in Markdown: a section with a table for each part."""
    return "\n".join(_glossary_lines())


def _glossary_lines() -> Iterator[str]:
    for part in PARTS:
        yield f"## {part.title}\n"
        yield f"{part.about}\n"
        yield "| Metric | Meaning |"
        yield "| --- | --- |"
        for metric in part.metrics:
            labels = f"{{{','.join(metric.labels)}}}" if metric.labels else ""
            kind = "Histogram: " if metric.kind == "histogram" else ""
            yield f"| `{metric.name}{labels}` | {kind}{metric.help} |"
        yield ""
