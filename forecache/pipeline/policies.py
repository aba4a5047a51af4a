"""What is decided without a person: which model goes live, what is served, how far scores may move, when to train."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from forecache.errors import SettingsError
from forecache.pipeline.checks.checking import check_fields, check_least, check_value
from forecache.pipeline.names import check_name, check_unique

Effect = Literal["none", "small", "large"]
METRICS: Mapping[Literal["binary", "regression", "multiclass", "quantiles"], tuple[str, ...]] = {
    "binary": ("roc_auc", "average_precision", "log_loss", "brier", "ece"),
    "regression": ("mae", "rmse", "r2", "spearman"),
    "multiclass": ("log_loss", "accuracy", "macro_f1", "top_3_accuracy", "roc_auc", "ece"),
    "quantiles": ("pinball_loss", "coverage_error", "interval_width"),
}
"""What a gate can judge by, for each kind of label, and for quantiles of a number; see `docs/outputs.md`."""


@dataclass(frozen=True)
class Metric:
    """A metric of your own, which a gate can judge by and have a floor for.

    Attributes:
        function: `function(label, prediction, weight)` returns a number; each an array of n rows, float64. The label of
            a class is its position among the model's classes; the prediction is [n] for a number, else [n, classes] or
            [n, levels]. A row with weight 2 counts as two rows: the weights are those that the label declares, else
            ones.
    """

    name: str
    function: Callable[..., float]
    greater_is_better: bool = True

    def __post_init__(self) -> None:
        check_fields(f"Metric {self.name!r}", self)
        check_name("metric", self.name)


@dataclass(frozen=True)
class Baseline:
    """A single feature used as the score, against which every model has to show its worth.

    Attributes:
        scale: For a regression, the prediction is `scale * feature`; for a binary label its sign gives the direction.
    """

    feature: str
    scale: float = 1.0
    description: str = ""

    def __post_init__(self) -> None:
        check_fields("`Baseline`", self)


@dataclass(frozen=True)
class Gate:
    """When a candidate may become the champion, judged on the test split.

    Attributes:
        metric: Of `METRICS` for the label's kind, such as "roc_auc" (more is better) or "mae" (less is better), or one
            of `metrics`.
        floors: Worst value allowed for each named metric, of the same ones.
        baseline: For a binary label and a regression. Classes and quantiles are compared with the same answer for all:
            class shares and quantiles of the training split.
        baseline_margin: The metric must beat the baseline's by at least this much.
        max_regression: How much worse than the champion on the same rows the metric may be.
        slices: Features by whose values (or quarters) the champion is compared too.
        max_slice_regression: How much worse the metric may surely be in any slice.
        max_ece: Largest expected calibration error, in the label's unit; None: any.
        max_latency_ms: Longest median time of scoring one row.
        max_size_bytes: Largest exported model.
        max_prediction_psi: Largest population stability index of the scores against the champion's; None: any.
        approval: A model that passes waits until a person promotes it.
        metrics: Metrics of your own, beside those of the label's kind.
    """

    metric: str
    floors: Mapping[str, float]
    baseline: Baseline | None = None
    baseline_margin: float = 0.0
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
        check_least("`Gate`", self, 0, "max_regression", "max_slice_regression", "max_ece")
        check_least("`Gate`", self, 0, "max_latency_ms", "max_size_bytes", "max_prediction_psi", above=True)


@dataclass(frozen=True)
class Publish:
    """What goes to the precompute store and when a version may become current.

    Attributes:
        fields: Columns to serve, None: every output and segment.
        backend: "lmdb" or "redis".
        max_age_h: Age of the as-of date (since the midnight that ended it, UTC) beyond which an answer is stale; None:
            what fits the schedule, which is 36 for a run every night; see `Schedule.max_age_h`.
        on_stale: "serve" without more, "flag" with `stale: true`, "refuse" with 503.
        keep: Versions kept beside the current and pinned ones.
        max_row_change: Largest relative change of the row count against the current version; None: any.
        max_null_share: Largest share of nulls in any served field; None: no null in predictions, any number in the
            features of a view, where null is unknown.
        max_psi: Largest population stability index of a served number against the current version; None: any. Classes
            are compared by `Drift`, which keeps a night from being published where it is `blocking`.
        compact_share: Share of the keys above which a publish is full, or its small segments are merged with the base.
        max_segments: Most segments of a version, the base included, before they are merged; at most 64.
    """

    fields: tuple[str, ...] | None = None
    backend: Literal["lmdb", "redis"] = "lmdb"
    max_age_h: float | None = None
    on_stale: Literal["serve", "flag", "refuse"] = "flag"
    keep: int = 5
    max_row_change: float | None = 0.5
    max_null_share: float | None = None
    max_psi: float | None = 0.5
    compact_share: float = 0.10
    max_segments: int = 16

    def __post_init__(self) -> None:
        check_fields("`Publish`", self)
        check_value("`Publish`", "fields", self.fields, self.fields != (), "Name a column, or None for all.")
        check_unique("field", "`Publish`", self.fields or ())
        check_least("`Publish`", self, 0, "max_age_h", "max_psi", above=True)
        check_least("`Publish`", self, 0, "keep", "max_row_change", "max_null_share", "compact_share")
        check_least("`Publish`", self, 1, "max_segments")
        for name in ("max_null_share", "compact_share"):
            fits = getattr(self, name) is None or getattr(self, name) <= 1
            check_value("`Publish`", name, getattr(self, name), fits, "It is a share, at most 1.")

    def check_served(self, owner: str, columns: Sequence[str]) -> None:
        """Refuse a field that is none of the columns that can be served.

        Raises:
            SettingsError: With the field and the columns.
        """
        unknown = set(self.fields or ()) - set(columns)
        if unknown:
            raise SettingsError(
                f"{owner} publishes the field {min(unknown)!r}, which its table does not have.",
                remedy=f"It has {', '.join(columns)}.",
            )


@dataclass(frozen=True)
class Drift:
    """How far a night's scores may move, by the size of the effect: a small one warns, a large one is an error.

    The index's limits are the customary ones (Siddiqi 2006). Chance alone moves ten bins of `min_rows` rows by less
    than half of the small ones.

    Attributes:
        last: Nights before, scored by the same model, that a night is compared with.
        small_psi: Population stability index above which an effect counts as small.
        large_psi: The one above which it counts as large.
        small_js: Jensen-Shannon distance above which an effect counts as small, whatever the index says.
        large_js: The one above which it counts as large.
        min_rows: With fewer rows on either side the figures are shown and not judged.
        blocking: A night with a large effect is not published.
        report_rows: Most rows of the night, and of its reference, in the sampled report; 0: there is no report.
        keep_reports: Reports kept on disk, the newest.
    """

    last: int = 7
    small_psi: float = 0.1
    large_psi: float = 0.25
    small_js: float = 0.15
    large_js: float = 0.3
    min_rows: int = 500
    blocking: bool = False
    report_rows: int = 20_000
    keep_reports: int = 7

    def __post_init__(self) -> None:
        check_fields("`Drift`", self)
        check_least("`Drift`", self, 0, "small_psi", "small_js", above=True)
        for measure in ("psi", "js"):
            small, large = getattr(self, f"small_{measure}"), getattr(self, f"large_{measure}")
            rule = f"It is not below small_{measure}, {small:g}."
            check_value("`Drift`", f"large_{measure}", large, large >= small, rule)
        check_least("`Drift`", self, 0, "last", "report_rows")
        check_least("`Drift`", self, 1, "min_rows", "keep_reports")

    def effect(self, psi: float, js: float) -> Effect:
        """The larger of the two effects."""
        if psi > self.large_psi or js > self.large_js:
            return "large"
        return "small" if psi > self.small_psi or js > self.small_js else "none"


@dataclass(frozen=True)
class Retraining:
    """When to train between the scheduled trainings: an effect beyond its limit on each of the latest nights.

    See `forecache.monitoring` for what is measured. The new model has to pass the gate like any other. A limit of None
    is off.

    Attributes:
        max_feature_psi: Largest population stability index of a feature against the champion's training split.
        max_prediction_psi: Largest one of the output against the champion's scores on its test split.
        max_metric_drop: How much worse than on the test split the gate's metric may be once labels are known. It has to
            be surely worse, too: its bootstrap interval lies on that side.
        ignore: Features that move by their nature, such as an age.
        min_nights: The latest measured nights that all have to be beyond the limit.
        min_rows: A night with fewer rows does not count.
        cool_down_days: Days since the last training in which no other is asked for.
    """

    max_feature_psi: float | None = 0.25
    max_prediction_psi: float | None = 0.25
    max_metric_drop: float | None = 0.02
    ignore: tuple[str, ...] = ()
    min_nights: int = 3
    min_rows: int = 1000
    cool_down_days: float = 7.0

    def __post_init__(self) -> None:
        limits = ("max_feature_psi", "max_prediction_psi", "max_metric_drop")
        check_fields("`Retraining`", self)
        check_least("`Retraining`", self, 0, *limits, above=True)
        if all(getattr(self, name) is None for name in limits):
            raise SettingsError("Retraining has no limit.", remedy=f"Set one of {', '.join(limits)}, or leave it out.")
        check_least("`Retraining`", self, 1, "min_nights", "min_rows")
        check_least("`Retraining`", self, 0, "cool_down_days")
