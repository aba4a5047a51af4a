"""Declared limits that are applied without a person: what is published, how far scores may drift, when to retrain."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from forecache.base.errors import SettingsError
from forecache.base.table_names import check_unique
from forecache.declare.checks import check_fields, check_known, check_least, check_value

Effect = Literal["none", "small", "large"]


@dataclass(frozen=True)
class Publish:
    """The fields that are published to the precompute store, and the conditions for a version to become current.

    Attributes:
        fields: Columns to serve; None: every output and segment.
        backend: "lmdb" or "redis".
        max_age_h: Hours since the midnight (UTC) that ended the as-of date, beyond which an answer is stale; None: what
            fits the schedule, which is 36 for a run every night; see `Schedule.max_age_h`.
        on_stale: A stale answer is served as it is ("serve"), with `stale: true` ("flag"), or refused with status 503
            ("refuse").
        keep: Versions kept beside the current and pinned ones.
        max_row_change: Largest relative change of the number of rows from the current version; None: any.
        max_null_share: Largest share of nulls in any served field; None: no null in predictions, any number in the
            features of a view, in which null means unknown.
        max_psi: Largest population stability index of a served number against the current version, if the same model
            made both (the gate judges a new one); None: any. Classes are compared by `Drift`; with
            `Drift(blocking=True)` a night with a large effect is not published.
        compact_share: If more than this share of the keys changed, the publish is full; if the small segments together
            hold more than this share, they are merged with the base.
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

    def check_served_fields(self, owner: str, columns: Sequence[str]) -> None:
        which = ", which its table does not have"
        check_known(f"{owner} publishes the field", sorted(self.fields or ()), columns, which, "It has")


@dataclass(frozen=True)
class Drift:
    """Limits for the drift of a night's scores: a small effect is a warning, a large one an error.

    The limits of the population stability index are the customary ones (Siddiqi 2006). With ten bins and `min_rows`
    rows, chance alone stays below half of `small_psi` and `small_js`.

    Attributes:
        last: Number of earlier nights, scored by the same model, that a night is compared with.
        small_psi: Population stability index above which an effect counts as small.
        large_psi: The one above which it counts as large.
        small_js: Jensen-Shannon distance above which an effect counts as small, even if the index is below its limit.
        large_js: The one above which it counts as large.
        min_rows: If either side has fewer rows, the figures are shown but not compared with the limits.
        blocking: A night with a large effect is not published.
        report_rows: Most rows of the night, and of its reference, in the sampled report; 0: no report.
        keep_reports: Number of reports kept on disk, the newest ones.
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
        if psi > self.large_psi or js > self.large_js:
            return "large"
        return "small" if psi > self.small_psi or js > self.small_js else "none"


@dataclass(frozen=True)
class Retraining:
    """Train between the scheduled trainings if an effect exceeds its limit on each of the latest nights.

    The new model has to pass the gate like any other. A limit of None is not checked.

    Attributes:
        max_feature_psi: Largest population stability index of a feature against the champion's training split.
        max_prediction_psi: Largest population stability index of the output against the champion's scores on its test
            split.
        max_metric_drop: How much worse than on the test split the gate's metric may be once labels are known. A larger
            drop counts only if its whole bootstrap interval lies on the worse side.
        ignore: Features that drift by their nature, such as an age.
        min_nights: Number of the latest measured nights that all have to exceed the limit.
        min_rows: A night with fewer rows does not count.
        cool_down_days: Days after a training in which no other is started.
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
