"""Baselines that every model has to beat: features used as scores, one answer for all rows, or a random order."""

from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from forecache.declare import Baseline, Trainable
from forecache.models.registry.gate.examples import SplitExamples
from forecache.models.registry.gate.metric_judge import judge_of
from forecache.models.registry.gate.score_metrics import RANKED_BY, Array

RANDOM = "random order"


@dataclass(frozen=True)
class BaselineScores:
    """A baseline's scores of some rows.

    Attributes:
        name: Name of its feature, or of its kind.
        score: float64 [n], or [n, values] if all rows have the same answer.
        metrics: By name; for a binary label only those of the order, as a feature is not a probability.
    """

    name: str
    score: Array
    metrics: dict[str, float]


def score_baselines(pipeline: Trainable, examples: SplitExamples) -> list[BaselineScores]:
    """Every baseline of a pipeline on some rows, the best by the gate's metric first."""
    judge, metric = judge_of(pipeline, examples.sizes), pipeline.trained_gate.metric
    scores = {each.feature: _baseline_score(pipeline, each, examples) for each in pipeline.trained_gate.baselines}
    if pipeline.task == "ranking":
        scores[RANDOM] = np.zeros(len(examples.label))
    if examples.constant is not None:
        name = "class shares" if pipeline.task == "multiclass" else "empirical quantiles"
        scores[name] = np.tile(examples.constant, (len(examples.features), 1))
    found = []
    for name, score in scores.items():
        metrics = judge.measure(examples.label, score, examples.weight)
        if pipeline.task == "binary":
            metrics = {each: value for each, value in metrics.items() if each in RANKED_BY}
        gain = judge.gain(metric, judge.metrics[metric](examples.label, score, examples.weight), 0.0)
        found.append((-gain if gain == gain else np.inf, BaselineScores(name, score, metrics)))
    return [each for _, each in sorted(found, key=itemgetter(0))]


def _baseline_score(pipeline: Trainable, baseline: Baseline, examples: SplitExamples) -> Array:
    """The feature times its scale, float64 [n]; a null becomes the median, or in a ranking the last of all."""
    values = examples.feature_column(baseline.feature).astype(np.float64) * baseline.scale
    unknown = np.isnan(values)
    if unknown.all():
        return np.zeros_like(values)
    known = values[~unknown]
    values[unknown] = np.nextafter(known.min(), -np.inf) if pipeline.task == "ranking" else np.median(known)
    return values
