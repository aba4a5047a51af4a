"""The checks of the gate, each a function from measured values to a `Check` with its reason.

The arrays `label`, `score` and `champion` (the last two are scores) are float64 over the same rows, [n], scores of
classes and quantiles [n, values]; `weight`, float64 [n], is the weight of each row, None: equal weights.
"""

import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from forecache.base.errors import InputError
from forecache.base.ranking import Sizes, mean_of_requests, weight_of_requests
from forecache.base.statistics import bin_counts, bootstrap_interval, cross_entropy, psi, quantile_edges
from forecache.declare import Gate, Trainable
from forecache.models.registry.gate.examples import CandidateModel, SplitExamples, slices_of
from forecache.models.registry.gate.metric_judge import (
    BaselineScores,
    MetricJudge,
    constant_scores,
    judge_of,
    single_values,
)
from forecache.models.registry.gate.score_metrics import (
    LESS_IS_BETTER,
    SORTED_ONCE,
    Array,
    class_ece,
    coverage,
    ece,
    mean_of_known,
    weighted_roc_auc,
)

_MEANS = ("mae", "rmse", "brier", "log_loss")


def gain_interval(
    judge: MetricJudge,
    metric: str,
    label: Array,
    score: Array,
    reference: Array,
    weight: Array | None = None,
    *,
    seed: int,
) -> tuple[float, float]:
    """95 percent confidence interval (low, high) of the gain of `score` over `reference`."""
    ours, theirs = (weighted_metric(judge, metric, label, each, weight) for each in (score, reference))
    units = _num_units(judge, label)
    return bootstrap_interval(lambda times: judge.gain(metric, ours(times), theirs(times)), units, seed=seed)


def metric_interval(
    judge: MetricJudge, metric: str, label: Array, score: Array, weight: Array | None = None, *, seed: int
) -> tuple[float, float]:
    return bootstrap_interval(weighted_metric(judge, metric, label, score, weight), _num_units(judge, label), seed=seed)


def _num_units(judge: MetricJudge, label: Array) -> int:
    """Number of rows, or of requests, that are resampled."""
    return len(label) if judge.sizes is None else len(judge.sizes)


def weighted_metric(
    judge: MetricJudge, metric: str, label: Array, score: Array, weight: Array | None = None
) -> Callable[[Array], float]:
    """The metric as a function of how often each row, or request, was drawn, whole numbers [n]; work that does not
    depend on the draw is done once."""
    sizes = judge.sizes
    if sizes is None:
        return _row_metric(judge, metric, label, score, weight)
    if judge.by_request:
        values, of_request = judge.by_request[metric](label, score, sizes), weight_of_requests(weight, sizes)
        return lambda times: mean_of_requests(values, times * of_request)
    by_row = _row_metric(judge, metric, label, score, weight)
    return lambda times: by_row(np.repeat(times, sizes))


def _row_metric(
    judge: MetricJudge, metric: str, label: Array, score: Array, weight: Array | None
) -> Callable[[Array], float]:
    own, function = 1.0 if weight is None else weight, judge.metrics[metric]
    if metric == "roc_auc" and judge.task == "multiclass":
        classes = [weighted_roc_auc((label == i).astype(np.float64), score[:, i]) for i in range(score.shape[1])]
        return lambda times: mean_of_known([auc(times * own) for auc in classes])
    if metric in SORTED_ONCE and judge.task in ("binary", "regression"):
        prepared = SORTED_ONCE[metric](label, score)
        return lambda times: prepared(times * own)
    if metric in _MEANS and judge.task in ("binary", "regression"):
        return _weighted_mean(metric, label, score, own)

    def repeated_rows_metric(times: Array) -> float:
        rows = np.repeat(np.arange(len(label)), times.astype(np.int64))
        return function(label[rows], score[rows], None if weight is None else weight[rows])

    return repeated_rows_metric


def _weighted_mean(metric: str, label: Array, score: Array, own: "Array | float") -> Callable[[Array], float]:
    losses = {
        "mae": np.abs(score - label),
        "rmse": (score - label) ** 2,
        "brier": (score - label) ** 2,
        "log_loss": cross_entropy(label, score),
    }[metric]

    def mean(times: Array) -> float:
        weights = times * own
        value = float(weights @ losses / weights.sum())
        return float(np.sqrt(value)) if metric == "rmse" else value

    return mean


_SLICE_ROWS = 200
_LATENCY_CALLS = 300
_PSI_BINS = 10
_TABLE_TYPES: Mapping[str, tuple[str, ...]] = {
    "number": ("float", "double", "integer", "long"),
    "integer": ("integer", "long"),
    "category": ("string",),
    "text": ("array",),
    "vector": ("array",),
}


@dataclass(frozen=True)
class Check:
    """One line of the verdict.

    Attributes:
        low, high: The 95 % bootstrap interval of the value; None without one.
        confirm: The check could not decide, so that a person has to confirm the model even without
            `Gate.approval`.
        warns: The check passed, and a person should know its reason.
    """

    name: str
    passed: bool
    value: float | None  # the measured value; None if it could not be measured
    limit: float | None  # the limit that the value is compared with; None if the value is only reported
    reason: str  # the result in words
    low: float | None = None
    high: float | None = None
    confirm: bool = False
    warns: bool = False

    @property
    def result(self) -> str:
        """ "passed", "failed", "warning", "reported" for a value without a limit, or "to confirm"."""
        if not self.passed:
            return "failed"
        if self.confirm:
            return "to confirm"
        if self.warns:
            return "warning"
        return "reported" if self.limit is None and self.name != "schema" else "passed"


def check_scores(
    pipeline: Trainable,
    examples: SplitExamples,
    score: Array,
    metrics: Mapping[str, float],
    baselines: Sequence[BaselineScores],
) -> Iterator[Check]:
    """All checks that scores on some rows need no model for: floors, baselines, the best of which comes first, constant
    predictors and calibration. `metrics` are those of the scores."""
    yield from check_floors(pipeline.trained_gate.floors, metrics, judge_of(pipeline, examples.sizes).less_is_better)
    yield from check_baselines(pipeline, examples, score, baselines)
    yield from check_constants(pipeline, examples, score)
    yield from compare_other_metrics(pipeline, metrics, baselines)
    yield from check_calibration(pipeline, examples.label, score, examples.weight)


def check_floors(
    floors: Mapping[str, float], metrics: Mapping[str, float], less_is_better: Container[str] = LESS_IS_BETTER
) -> Iterator[Check]:
    """Each metric with a floor is at least (if less is better, at most) its floor."""
    for name, floor in floors.items():
        value = metrics[name]
        less = name in less_is_better
        passed = bool(value <= floor if less else value >= floor)
        relation = "at most" if less else "at least"
        yield Check(f"floor:{name}", passed, value, floor, f"{name} {value:.4f}, {relation} {floor:g} wanted")


def check_baselines(
    pipeline: Trainable, examples: SplitExamples, score: Array, baselines: Sequence[BaselineScores]
) -> Iterator[Check]:
    """The gate's metric beats each baseline's by the margin, and the interval of the gain is above zero."""
    margin = pipeline.trained_gate.baseline_margin
    for baseline in baselines:
        gain = _measure_gain(pipeline, examples, score, baseline.score)
        name = "baseline" if len(baselines) == 1 else f"baseline:{baseline.name}"
        passed = gain.value >= margin and gain.low > 0
        reason = f"{gain.text} than {baseline.name} alone ({gain.range}), {margin:g} wanted{gain.doubt}"
        yield Check(name, bool(passed), gain.value, margin, reason, gain.low, gain.high)


def check_constants(pipeline: Trainable, examples: SplitExamples, score: Array) -> Iterator[Check]:
    """The gate's metric beats the best constant predictor's, and the interval of the gain is above zero; with a
    negative baseline margin, it is not worse by more than that.

    Of classes and quantiles, the baseline is the best constant. A metric without a value for a constant, as a rank
    correlation, does not compare with one.
    """
    if not pipeline.trained_gate.baselines or pipeline.task == "ranking":
        return
    judge, name = judge_of(pipeline, examples.sizes), pipeline.trained_gate.metric
    metric, label, weight = judge.metrics[name], examples.label, examples.weight
    constants = constant_scores(examples)
    known = dict[str, float]()
    for constant, each in constants.items():
        with suppress(InputError):  # a metric of the project's own may take no constant
            known[constant] = metric(label, each, weight)
    known = {constant: value for constant, value in known.items() if value == value}
    if not known:
        return
    best = max(known, key=lambda constant: judge.gain(name, known[constant], 0.0))
    gain = _measure_gain(pipeline, examples, score, constants[best])
    least = min(0.0, pipeline.trained_gate.baseline_margin)
    passed = gain.value >= least if least else gain.value > 0 and gain.low > 0
    doubt = "" if least else gain.doubt
    reason = f"{gain.text} than always {best} of the training split, with {known[best]:.4f} ({gain.range}){doubt}"
    yield Check("constant", bool(passed), gain.value, least, reason, gain.low, gain.high)


def compare_other_metrics(
    pipeline: Trainable, metrics: Mapping[str, float], baselines: Sequence[BaselineScores]
) -> Iterator[Check]:
    """The metrics of `Gate.not_worse_than_baseline` are not worse than any baseline's. A baseline that is better by
    others never fails a model: it is reported if such metrics are declared, else a warning."""
    gate, judge = pipeline.trained_gate, judge_of(pipeline)
    for name in gate.not_worse_than_baseline:
        gains = [judge.gain(name, metrics[name], baseline.metrics[name]) for baseline in baselines]
        least = int(np.argmin(gains))
        hardest = baselines[least]
        reason = f"{name} {metrics[name]:.4f}, {hardest.metrics[name]:.4f} of {hardest.name} alone wanted"
        yield Check(f"not_worse:{name}", bool(gains[least] >= 0), gains[least], 0.0, reason)
    best = baselines[0]
    worse = [
        f"{name} ({metrics[name]:.4f} against {value:.4f})"
        for name, value in best.metrics.items()
        if name not in (gate.metric, *gate.not_worse_than_baseline)
        and name in metrics
        and judge.gain(name, metrics[name], value) < 0
    ]
    if worse:
        by = ", ".join((gate.metric, *gate.not_worse_than_baseline))
        reason = f"{best.name} alone is better by {', '.join(worse)}; the gate judges by {by}"
        yield Check("other_metrics", True, None, None, reason, warns=not gate.not_worse_than_baseline)


def check_champion(
    pipeline: Trainable, examples: SplitExamples, score: Array, champion: Array, *, version: int
) -> Check:
    """The gate's metric is not worse than the champion's on the same rows by more than is allowed."""
    gain, most = _measure_gain(pipeline, examples, score, champion), pipeline.trained_gate.max_regression
    reason = f"{gain.text} than champion {version} ({gain.range}), {most:g} worse allowed"
    return Check("champion", bool(gain.value >= -most), gain.value, -most, reason, gain.low, gain.high)


def check_slices(pipeline: Trainable, examples: SplitExamples, score: Array, champion: Array) -> Iterator[Check]:
    """No slice of the declared columns is worse than the champion's by more than is allowed, and significantly so.

    For a real-time model, slices are of requests, by the first row of each.
    """
    gate = pipeline.trained_gate
    for column in gate.slices:
        for name, rows in slices_of(examples, column):
            some = examples.select(rows)
            if some.num_units < _SLICE_ROWS or (
                pipeline.trained_label.kind != "regression" and len(np.unique(some.label)) < 2
            ):
                continue
            gain, most = _measure_gain(pipeline, some, score[rows], champion[rows]), gate.max_slice_regression
            units = f"{some.num_units} {'rows' if some.sizes is None else 'requests'}"
            reason = f"{gain.text} than the champion where {column} is {name} ({units}, {gain.range})"
            passed = not (gain.value < -most and gain.high < 0)
            yield Check(f"slice:{column} {name}", passed, gain.value, -most, reason, gain.low, gain.high)


def check_calibration(pipeline: Trainable, label: Array, score: Array, weight: Array | None = None) -> Iterator[Check]:
    """The mean prediction agrees with the mean label in bins of equal mass; of a regression only if a limit is set, of
    classes the mean of each class's, of quantiles the shares of labels up to them are reported. A ranking has none."""
    if pipeline.task == "ranking":
        return
    limit = pipeline.trained_gate.max_ece
    if pipeline.task == "quantiles":
        levels, observed = pipeline.output_specs[0].levels, coverage(label, score, weight)
        pairs = ", ".join(
            f"{100 * share:.1f} % for {100 * level:g} %" for share, level in zip(observed, levels, strict=True)
        )
        yield Check(
            "calibration", True, float(np.mean(np.abs(observed - np.array(levels)))), None, f"labels up to: {pairs}"
        )
        return
    value = (class_ece if pipeline.task == "multiclass" else ece)(label, score, weight)
    if limit is None and pipeline.trained_label.kind == "regression":
        return
    wanted = "" if limit is None else f", at most {limit:g} wanted"
    yield Check("calibration", limit is None or value <= limit, value, limit, f"ECE {value:.4f}{wanted}")


def check_latency(
    gate: Gate, model: CandidateModel, features: NDArray[np.float32], sizes: Sizes | None = None
) -> Check:
    """The median time, in milliseconds, of scoring one row, or a request of median size, on one thread."""
    together = 1 if sizes is None else int(np.median(sizes))
    rows = np.ascontiguousarray(features[:together])
    model.predict(rows)
    times = []
    for _ in range(_LATENCY_CALLS):
        started = time.perf_counter()
        model.predict(rows)
        times.append(time.perf_counter() - started)
    value = float(np.median(times) * 1000)
    what = "a row" if together == 1 else f"a request of {together}"
    return Check("latency_ms", value <= gate.max_latency_ms, value, gate.max_latency_ms, f"{value:.3f} ms {what}")


def check_size(gate: Gate, size_bytes: int) -> Check:
    """The size, in megabytes, of the model that a scoring worker loads."""
    value, limit = size_bytes / 1e6, gate.max_size_bytes / 1e6
    return Check("size_mb", size_bytes <= gate.max_size_bytes, value, limit, f"{value:.2f} MB")


def check_shift(pipeline: Trainable, score: Array, champion: Array) -> Check:
    """The population stability index (PSI) between the champion's scores and the candidate's on the same rows; of
    classes between how often each is the most likely, of quantiles of the one nearest to the median."""
    ours, theirs = single_values(pipeline, score), single_values(pipeline, champion)
    classes = pipeline.task == "multiclass"
    edges = np.arange(1.0, score.shape[1]) if classes else quantile_edges(theirs, _PSI_BINS)
    value = psi(bin_counts(edges, theirs), bin_counts(edges, ours))
    limit = pipeline.trained_gate.max_prediction_psi
    return Check("prediction_shift", limit is None or value <= limit, value, limit, f"PSI {value:.3f} to the champion")


def check_schema(pipeline: Trainable, features: tuple[str, ...], output: str, published: dict[str, str]) -> Check:
    """The model takes the pipeline's features, of the types of the feature table, and returns the declared output.

    `published` has the column types of the feature table; one that is missing comes with its next features.
    """
    problem = ""
    if features != pipeline.feature_names:
        changed = sorted(set(features) ^ set(pipeline.feature_names)) or ["their order"]
        problem = f"the model's features are not the pipeline's: {', '.join(changed)}"
    elif output != pipeline.main_output.name:
        problem = f"the model's output is {output!r}, the pipeline's {pipeline.main_output.name!r}"
    elif published:
        found = [(each, published[each.name]) for each in pipeline.feature_columns if each.name in published]
        others = [f"{each.name!r} as {kind}" for each, kind in found if kind not in _TABLE_TYPES[each.type]]
        problem = f"the feature table has the column {others[0]}, which is not its type" if others else ""
    return Check("schema", not problem, None, None, problem or f"{len(features)} features, output {output}")


class _Gain(NamedTuple):
    """The gain in the gate's metric over a reference, with its 95 % bootstrap interval."""

    metric: str
    value: float
    low: float
    high: float

    @property
    def text(self) -> str:
        return f"{self.metric} {abs(self.value):.4f} {'better' if self.value >= 0 else 'worse'}"

    @property
    def doubt(self) -> str:
        """The sentence about a gain that the rows do not prove; "" for a sure gain, and for a loss."""
        unsure = self.value > 0 >= self.low
        return ", and not surely: the interval has to be above 0; more test rows make it narrower" if unsure else ""

    @property
    def range(self) -> str:
        return f"{self.low:+.4f} to {self.high:+.4f}"


def _measure_gain(pipeline: Trainable, examples: SplitExamples, score: Array, reference: Array) -> _Gain:
    judge, name = judge_of(pipeline, examples.sizes), pipeline.trained_gate.metric
    metric, label, weight = judge.metrics[name], examples.label, examples.weight
    value = judge.gain(name, metric(label, score, weight), metric(label, reference, weight))
    return _Gain(name, value, *gain_interval(judge, name, label, score, reference, weight, seed=pipeline.training.seed))
