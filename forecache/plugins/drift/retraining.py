"""Decides whether to train a pipeline again, from the monitoring table, the registry and the stage ledger."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone

from forecache.base.errors import SettingsError
from forecache.base.settings import Settings
from forecache.declare import Pipeline, Realtime, Retraining
from forecache.models.registry.model_versions import find_champion
from forecache.operations.training_due import LastTraining, last_training
from forecache.plugins.drift.feature_drift import TRAINING_SPLIT
from forecache.plugins.drift.measurements import Kind, Measurement, measurements
from forecache.plugins.drift.prediction_drift import TEST_SPLIT

_REFERENCES: dict[Kind, str] = {"feature": TRAINING_SPLIT, "prediction": TEST_SPLIT, "performance": TEST_SPLIT}
"""References by kinds of figures that may cause a training: realised performance may, an estimate may not."""


@dataclass(frozen=True)
class Cause:
    """A figure that was beyond its limit on each of the latest as-of dates."""

    kind: Kind
    name: str
    effect: float  # its latest; see `Measurement`
    limit: float
    nights: tuple[date, ...]  # by which it was known

    @property
    def sentence(self) -> str:
        what = {
            "feature": f"feature {self.name}: PSI {self.effect:.3f} to the training split",
            "prediction": f"{self.name}: PSI {self.effect:.3f} to the test split",
            "performance": f"{self.name} {self.effect:.4f} worse than on the test split",
        }[self.kind]
        running = f" on {len(self.nights)} as-of dates in a row" if len(self.nights) > 1 else ""
        return f"{what} on {self.nights[-1]}, more than {self.limit:g}{running}"


@dataclass(frozen=True)
class RetrainingDecision:
    """The decision whether to train again, with causes also if no training may follow now; the largest effect, measured
    in limits, first.

    `key` identifies the occasion. It stays the same until another training has ended or another model is champion, so
    that an occasion causes one training only.
    """

    retrain: bool
    reason: str
    causes: tuple[Cause, ...] = ()
    night: date | None = None  # the latest of the causes, as of which to train
    key: str = ""


def decide(
    rules: Retraining, figures: Iterable[Measurement], *, champion: int | None, last: LastTraining | None, now: datetime
) -> RetrainingDecision:
    """Decide from the figures, each once, about the champion that are newer than the last training."""
    if champion is None:
        return RetrainingDecision(False, "There is no champion whose predictions could be held against anything.")
    new = [
        row
        for row in figures
        if row.model_version == champion and row.rows >= rules.min_rows and (last is None or row.run_date > last.night)
    ]
    causes = find_causes(rules, new)
    if not causes:
        return RetrainingDecision(False, _no_cause_reason(rules, new, champion))
    said = "; ".join(cause.sentence for cause in causes)
    night = max(cause.nights[-1] for cause in causes)
    key = f"{champion} since {last.ended_at.isoformat() if last else 'the beginning'}"
    if last is not None and now < last.ended_at + timedelta(days=rules.cool_down_days):
        until = last.ended_at + timedelta(days=rules.cool_down_days)
        waits = (
            f"Cooling down until {until:%Y-%m-%d %H:%M} UTC, {rules.cool_down_days:g} days after a training: {said}."
        )
        return RetrainingDecision(False, waits, causes, night, key)
    return RetrainingDecision(True, f"Champion {champion}: {said}.", causes, night, key)


def find_causes(rules: Retraining, figures: Iterable[Measurement]) -> tuple[Cause, ...]:
    """Find the figures that are beyond their limit on each of the latest `min_nights` as-of dates with a value."""
    limits: dict[Kind, float | None] = {
        "feature": rules.max_feature_psi,
        "prediction": rules.max_prediction_psi,
        "performance": rules.max_metric_drop,
    }
    series: dict[tuple[Kind, str], list[Measurement]] = {}
    for row in figures:
        ignored = row.kind == "feature" and row.name in rules.ignore
        if row.reference == _REFERENCES.get(row.kind) and not ignored:
            series.setdefault((row.kind, row.name), []).append(row)
    causes = []
    for (kind, name), rows in series.items():
        limit = limits[kind]
        latest = sorted(rows, key=lambda row: row.run_date)[-rules.min_nights :]
        if limit is None or len(latest) < rules.min_nights or not all(_is_beyond(row, limit) for row in latest):
            continue
        causes.append(Cause(kind, name, latest[-1].effect, limit, tuple(row.run_date for row in latest)))
    return tuple(sorted(causes, key=lambda cause: (-cause.effect / cause.limit, cause.kind, cause.name)))


def _is_beyond(row: Measurement, limit: float) -> bool:
    """True if beyond the limit and, for a metric, certainly worse: even the better end of its interval is worse."""
    return row.effect > limit and (row.effect_low is None or row.effect_low > 0)


def _no_cause_reason(rules: Retraining, figures: Iterable[Measurement], champion: int) -> str:
    nights = {row.run_date for row in figures}
    if len(nights) < rules.min_nights:
        measured = "1 as-of date" if len(nights) == 1 else f"{len(nights)} as-of dates"
        has = "has" if len(nights) == 1 else "have"
        return (
            f"{measured} of champion {champion} {has} been measured since the last training, {rules.min_nights} needed."
        )
    return f"Nothing is beyond its limit on the latest {rules.min_nights} as-of dates, the last {max(nights)}."


def retraining_decision(settings: Settings, pipeline: Pipeline, *, now: datetime | None = None) -> RetrainingDecision:
    """Decide whether the pipeline has to be trained again now; SettingsError if it declares no `retraining`."""
    if pipeline.retraining is None:
        raise SettingsError(
            f"Pipeline {pipeline.name!r} does not say when to train again.",
            remedy="Declare `retraining=Retraining(...)` in it.",
        )
    model, last = find_champion(settings, pipeline), last_training(settings, pipeline)
    figures = measurements(settings, pipeline.name, first=last.night if last else None)
    return decide(
        pipeline.retraining,
        # Without the figures of an earlier metric of the gate, which are still in the table.
        [row for row in figures if row.kind != "performance" or row.name == pipeline.trained_gate.metric],
        champion=model.version if model else None,
        last=last,
        now=now or datetime.now(timezone.utc),
    )


def asks_for_training(settings: Settings, pipeline: Pipeline | Realtime, *, now: datetime) -> bool:
    """True if figures about the champion are beyond the limits that the pipeline declares."""
    if isinstance(pipeline, Realtime) or pipeline.retraining is None:
        return False
    return retraining_decision(settings, pipeline, now=now).retrain
