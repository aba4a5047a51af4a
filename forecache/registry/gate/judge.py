"""The metrics that a pipeline's predictions are judged by: those of what it learns, and its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from forecache.pipeline import Metric, Pipeline, Task
from forecache.registry.gate import class_metrics, quantile_metrics
from forecache.registry.gate.metrics import BINARY, LESS_IS_BETTER, REGRESSION, Array


class MetricFunction(Protocol):
    """A metric of `score`, float64 [n] or [n, values], against `label`, float64 [n], classes as their positions."""

    def __call__(self, label: Array, score: Array, weight: Array | None = None, /) -> float: ...


@dataclass(frozen=True)
class Judge:
    """How predictions are compared with labels.

    Attributes:
        metrics: By name; where `weight`, float64 [n], is None, all rows count the same.
        less_is_better: Names of those that are better when they are smaller.
    """

    task: Task
    metrics: Mapping[str, MetricFunction]
    less_is_better: frozenset[str]

    def values(self, label: Array, score: Array, weight: Array | None = None) -> dict[str, float]:
        """Every metric that says something about these rows: with three classes or fewer, no best three."""
        known = dict(self.metrics)
        if self.task == "multiclass" and score.shape[1] <= class_metrics.BEST:
            known.pop("top_3_accuracy", None)
        return {name: metric(label, score, weight) for name, metric in known.items()}

    def gain(self, metric: str, value: float, reference: float) -> float:
        """How much better `value` is than `reference`: positive is better."""
        return reference - value if metric in self.less_is_better else value - reference


def judge_of(pipeline: Pipeline) -> Judge:
    """The judge of a pipeline."""
    task, own = pipeline.task, pipeline.gate.metrics if pipeline.gate else ()
    metrics: dict[str, MetricFunction] = dict(_metrics(task, pipeline.output_specs[0].levels))
    metrics |= {metric.name: _own(metric) for metric in own}
    less = LESS_IS_BETTER | {metric.name for metric in own if not metric.greater_is_better}
    return Judge(task, metrics, less - {metric.name for metric in own if metric.greater_is_better})


def _metrics(task: Task, levels: tuple[float, ...]) -> Mapping[str, MetricFunction]:
    if task == "binary":
        return BINARY
    if task == "regression":
        return REGRESSION
    if task == "multiclass":
        return class_metrics.MULTICLASS
    return {name: partial(function, levels) for name, function in quantile_metrics.QUANTILES.items()}


def _own(metric: Metric) -> MetricFunction:
    def function(label: Array, score: Array, weight: Array | None = None, /) -> float:
        return float(metric.function(label, score, np.ones(len(label)) if weight is None else weight))

    return function


def judged_values(pipeline: Pipeline, score: Array) -> Array:
    """The one value a row that a distribution is taken of, float64 [n]: a number as it is, of quantiles the one nearest
    to the median, of classes the position of the most likely."""
    spec = pipeline.output_specs[0]
    if spec.kind == "classes":
        return score.argmax(axis=1).astype(np.float64)
    return score[:, spec.columns.index(spec.judged_column)] if spec.kind == "quantiles" else score
