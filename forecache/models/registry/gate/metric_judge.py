"""The metrics that a pipeline's predictions are judged by, and the baselines that every model has to beat."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import Protocol

import numpy as np

from forecache.base.errors import InputError
from forecache.base.ranking import (
    DEFAULT_PLACES,
    PerRequest,
    Sizes,
    mean_of_requests,
    ndcg,
    recall,
    reciprocal_rank,
    weight_of_requests,
)
from forecache.declare import Baseline, Gate, Metric, RegisteredModel, Task, Trainable
from forecache.declare.models.gate import RANKED_BY, rank_cutoff
from forecache.models.registry.gate.examples import SplitExamples
from forecache.models.registry.gate.score_metrics import (
    BEST,
    BINARY,
    LESS_IS_BETTER,
    MULTICLASS,
    QUANTILES,
    REGRESSION,
    Array,
)


class MetricFunction(Protocol):
    """A metric of `score`, float64 [n] or [n, values], against `label`, float64 [n], classes as their positions."""

    def __call__(self, label: Array, score: Array, weight: Array | None = None, /) -> float: ...


@dataclass(frozen=True)
class MetricJudge:
    task: Task
    metrics: Mapping[str, MetricFunction]  # by name; if `weight`, float64 [n], is None, all rows have equal weight
    less_is_better: frozenset[str]  # names of metrics that are better when smaller
    asked: frozenset[str] = frozenset()  # names of metrics in the declaration, which are always reported
    sizes: Sizes | None = None  # for a real-time model, the number of rows of each request; requests are contiguous
    by_request: Mapping[str, PerRequest] = field(default_factory=dict)  # for a ranking, the metrics of each request

    def measure(self, label: Array, score: Array, weight: Array | None = None) -> dict[str, float]:
        """Every metric by name; with three classes or fewer, top-3 accuracy only if the declaration names it."""
        few = self.task == "multiclass" and score.shape[1] <= BEST
        idle = {"top_3_accuracy"} - self.asked if few else set()
        return {name: metric(label, score, weight) for name, metric in self.metrics.items() if name not in idle}

    def gain(self, metric: str, value: float, reference: float) -> float:
        """The improvement of `value` over `reference`: positive is better."""
        return reference - value if metric in self.less_is_better else value - reference


def judge_of(pipeline: Trainable, sizes: Sizes | None = None) -> MetricJudge:
    """The metrics of a pipeline's predictions; `sizes` has the rows of each request of a real-time model,
    contiguous."""
    task, own = pipeline.task, pipeline.gate.metrics if pipeline.gate else ()
    if task == "ranking":
        return _ranking_judge(pipeline, np.zeros(0, np.int64) if sizes is None else sizes)
    metrics: dict[str, MetricFunction] = dict(_task_metrics(task, pipeline.output_specs[0].levels))
    metrics |= {metric.name: _declared_metric(metric) for metric in own}
    less = LESS_IS_BETTER | {metric.name for metric in own if not metric.greater_is_better}
    less -= {metric.name for metric in own if metric.greater_is_better}
    floors = pipeline.model.floors if isinstance(pipeline.model, RegisteredModel) else {}
    asked = _metric_names(pipeline.gate) if pipeline.gate else tuple(floors)
    return MetricJudge(task, metrics, frozenset(less), frozenset(asked), sizes)


def _ranking_judge(pipeline: Trainable, sizes: Sizes) -> MetricJudge:
    gate = pipeline.trained_gate
    by_request = _ranking_metrics(*_metric_names(gate))
    by_request |= {metric.name: partial(_metric_by_request, _declared_metric(metric)) for metric in gate.metrics}
    less = frozenset(metric.name for metric in gate.metrics if not metric.greater_is_better)

    def mean(function: PerRequest, label: Array, score: Array, weight: Array | None = None, /) -> float:
        return mean_of_requests(function(label, score, sizes), weight_of_requests(weight, sizes))

    metrics = {name: partial(mean, function) for name, function in by_request.items()}
    return MetricJudge("ranking", metrics, less, frozenset(_metric_names(gate)), sizes, by_request)


def _metric_names(gate: Gate) -> tuple[str, ...]:
    return (gate.metric, *gate.floors, *gate.not_worse_than_baseline)


def _ranking_metrics(*asked: str) -> dict[str, PerRequest]:
    """The metrics of a ranking by name, at the places in the declared names, else at 10."""
    places = sorted({found for name in asked if (found := rank_cutoff(name))}) or [DEFAULT_PLACES]
    metrics: dict[str, PerRequest] = {}
    for name, function in (("ndcg", ndcg), ("recall", recall)):
        metrics |= {f"{name}@{k}": partial(function, places=k) for k in places}
    return metrics | {"mrr": reciprocal_rank}


def _metric_by_request(metric: MetricFunction, label: Array, score: Array, sizes: Sizes) -> Array:
    ends = np.cumsum(sizes)
    spans = [slice(start, end) for start, end in zip(ends - sizes, ends, strict=True)]
    return np.array([metric(label[rows], score[rows]) for rows in spans])


def _task_metrics(task: Task, levels: tuple[float, ...]) -> Mapping[str, MetricFunction]:
    if task == "binary":
        return BINARY
    if task == "regression":
        return REGRESSION
    if task == "multiclass":
        return MULTICLASS
    return {name: partial(function, levels) for name, function in QUANTILES.items()}


def _declared_metric(metric: Metric) -> MetricFunction:
    def function(label: Array, score: Array, weight: Array | None = None, /) -> float:
        try:
            return float(metric.function(label, score, np.ones(len(label)) if weight is None else weight))
        except Exception as error:
            raise InputError(
                f"The metric {metric.name!r} failed: {type(error).__name__}: {error}.",
                remedy="It gets labels, predictions and weights as arrays, and returns a number.",
            ) from error

    return function


def single_values(pipeline: Trainable, score: Array) -> Array:
    """One value for each row, for distributions, float64 [n]: a number as it is, of quantiles the one nearest to the
    median, of classes the position of the most likely."""
    spec = pipeline.output_specs[0]
    if spec.kind == "classes":
        return score.argmax(axis=1).astype(np.float64)
    return score[:, spec.columns.index(spec.judged_column)] if spec.kind == "quantiles" else score


RANDOM = "random order"


@dataclass(frozen=True)
class BaselineScores:
    name: str  # name of its feature, or of its kind
    score: Array  # float64 [n], or [n, values] if all rows have the same answer
    metrics: dict[str, float]  # by name; for a binary label only those of the order, as a feature is not a probability


def score_baselines(pipeline: Trainable, examples: SplitExamples) -> list[BaselineScores]:
    """Every baseline of a pipeline on some rows, the best by the gate's metric first."""
    judge, metric = judge_of(pipeline, examples.sizes), pipeline.trained_gate.metric
    scores = {each.feature: _baseline_score(pipeline, each, examples) for each in pipeline.trained_gate.baselines}
    if pipeline.task == "ranking":
        scores[RANDOM] = np.zeros(len(examples.label))
    if not pipeline.trained_gate.baselines:
        scores |= constant_scores(examples)
    found = []
    for name, score in scores.items():
        metrics = judge.measure(examples.label, score, examples.weight)
        if pipeline.task == "binary":
            metrics = {each: value for each, value in metrics.items() if each in RANKED_BY}
        gain = judge.gain(metric, judge.metrics[metric](examples.label, score, examples.weight), 0.0)
        found.append((-gain if gain == gain else np.inf, BaselineScores(name, score, metrics)))
    return [each for _, each in sorted(found, key=itemgetter(0))]


def constant_scores(examples: SplitExamples) -> dict[str, Array]:
    """The constant predictors of `SplitExamples.constants` as scores, float64 [n] or [n, values], by name."""
    rows = len(examples.label)
    return {name: np.full((rows, *np.shape(answer)), answer) for name, answer in examples.constants.items()}


def _baseline_score(pipeline: Trainable, baseline: Baseline, examples: SplitExamples) -> Array:
    """The feature times its scale, float64 [n]; a null becomes the median, or in a ranking the last of all."""
    values = examples.feature_column(baseline.feature).astype(np.float64) * baseline.scale
    unknown = np.isnan(values)
    if unknown.all():
        return np.zeros_like(values)
    known = values[~unknown]
    values[unknown] = np.nextafter(known.min(), -np.inf) if pipeline.task == "ranking" else np.median(known)
    return values
