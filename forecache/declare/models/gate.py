"""The gate: the checks that a model that is trained here has to pass before it is used."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from forecache.base.table_names import check_name, check_unique
from forecache.declare.checks import check_fields, check_least

METRICS: Mapping[Literal["binary", "regression", "multiclass", "quantiles", "ranking"], tuple[str, ...]] = {
    "binary": ("roc_auc", "average_precision", "log_loss", "brier", "ece"),
    "regression": ("mae", "rmse", "r2", "spearman", "gini", "top_decile"),
    "multiclass": ("log_loss", "accuracy", "macro_f1", "top_3_accuracy", "roc_auc", "ece"),
    "quantiles": ("pinball_loss", "coverage_error", "interval_width"),
    "ranking": ("ndcg@10", "recall@10", "mrr"),
}
"""The metrics of a gate for each kind of label, and for quantiles of a number; see `docs/how-to/outputs.md`. Those of a
ranking may have any other cutoff, such as "ndcg@5"."""

RANKED_BY = ("roc_auc", "average_precision", "spearman", "gini", "top_decile")
"""Metrics of the order of scores, which do not depend on their unit."""

_AT = re.compile(r"(ndcg|recall)@([1-9][0-9]{0,3})")


def rank_cutoff(metric: str) -> int | None:
    """The cutoff of a ranking metric, such as 5 of "ndcg@5"; None for another metric."""
    found = _AT.fullmatch(metric)
    return int(found[2]) if found else None


@dataclass(frozen=True)
class Metric:
    """A metric of your own, as the metric of a gate or with a floor.

    Attributes:
        function: `function(label, prediction, weight)` returns a number; each an array of n rows, float64. The label of
            a class is its position among the model's classes; the prediction is [n] for a number, else [n, classes] or
            [n, levels]. A row with weight 2 counts as two rows: the weights are those that the label declares, else
            ones. For a ranking it is called for each request, and the metric is the mean of its values other than NaN.
    """

    name: str
    function: Callable[..., float]
    greater_is_better: bool = True

    def __post_init__(self) -> None:
        check_fields(f"Metric {self.name!r}", self)
        check_name("metric", self.name)


@dataclass(frozen=True)
class Baseline:
    """A single feature used as the score, which every model has to beat.

    Attributes:
        scale: For a regression, the prediction is `scale * feature`; for a binary label and a ranking, a negative scale
            ranks small values first. Candidates of a ranking whose feature is null come last.
    """

    feature: str
    scale: float = 1.0
    description: str = ""

    def __post_init__(self) -> None:
        check_fields("`Baseline`", self)


@dataclass(frozen=True)
class Gate:
    """The conditions for a candidate to become the champion, judged on the test split.

    Attributes:
        metric: Of `METRICS` for the label's kind, such as "roc_auc" (more is better), "mae" (less is better) or, of a
            ranking, "ndcg@10"; or one of `metrics`.
        floors: Worst value allowed for each named metric; the same metrics can be named.
        baseline: For a binary label, a regression and a ranking; of several, each has to be beaten. Classes and
            quantiles are compared with the same answer for all: class shares and quantiles of the training split. A
            ranking is compared with the random order, too.
        baseline_margin: The metric must beat each baseline's by at least this much, and surely: the 95 % interval of
            the gain is above 0, whatever the margin. It must also beat the best
            constant: the mean or the median of a regression's label in the training split, or a binary one's share; a
            negative margin is how much worse than that it may be.
        not_worse_than_baseline: Further metrics by which a model may not be worse than any baseline. If none are named,
            a baseline that is better by any other metric is a warning; else it is reported.
        max_regression: How much worse than the champion on the same rows the metric may be.
        slices: Features whose values (or quarters, of numbers) make slices, in each of which the champion is compared.
        max_slice_regression: How much worse than the champion the metric may be in any slice; only a difference that
            the data prove counts.
        max_ece: Largest expected calibration error, in the label's unit; None: any.
        max_latency_ms: Longest median time of scoring one row; for a ranking, one request of usual size.
        max_size_bytes: Largest exported model.
        max_prediction_psi: Largest population stability index of the scores against the champion's; None: any.
        approval: True: a model that passes waits until a person promotes it.
        metrics: Metrics of your own, beside those of the label's kind.
    """

    metric: str
    floors: Mapping[str, float]
    baseline: Baseline | tuple[Baseline, ...] | None = None
    baseline_margin: float = 0.0
    not_worse_than_baseline: tuple[str, ...] = ()
    max_regression: float = 0.002
    slices: tuple[str, ...] = ()
    max_slice_regression: float = 0.01
    max_ece: float | None = None
    max_latency_ms: float = 5.0
    max_size_bytes: int = 100_000_000
    max_prediction_psi: float | None = None
    approval: bool = False
    metrics: tuple[Metric, ...] = ()

    def __post_init__(self) -> None:
        check_fields("`Gate`", self)
        check_unique("metric", "`Gate`", [metric.name for metric in self.metrics])
        check_unique("baseline", "`Gate`", [baseline.feature for baseline in self.baselines])
        check_least("`Gate`", self, 0, "max_regression", "max_slice_regression", "max_ece")
        check_least("`Gate`", self, 0, "max_latency_ms", "max_size_bytes", "max_prediction_psi", above=True)

    @property
    def baselines(self) -> tuple[Baseline, ...]:
        if isinstance(self.baseline, tuple):
            return self.baseline
        return (self.baseline,) if self.baseline else ()
