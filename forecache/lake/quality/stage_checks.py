"""Checks of what a run has built, features, predictions, splits of a training set, and of whether it may go on.

The verdict on an as-of date is recorded for the rows that are there now; publishing asks for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Protocol

from forecache.base.errors import CheckError
from forecache.base.results import StageResult
from forecache.declare import AS_OF, FeatureView, Pipeline, Realtime
from forecache.declare.served import PluginTable
from forecache.kit.delta.comparison.partition import partition_digests
from forecache.kit.delta.tables import open_table
from forecache.lake.features import feature_versions
from forecache.lake.quality.expectations import (
    feature_expectations,
    made_expectations,
    prediction_expectations,
)
from forecache.lake.quality.pending_files import Run
from forecache.lake.quality.validate import CheckReport
from forecache.lake.quality.verdicts import check_nights

_ORDER = ("train", "validation", "test")


@dataclass(frozen=True)
class Separation:
    """Verdict on the distance of the splits, with the reason in a sentence."""

    success: bool
    sentence: str


def check_splits(as_of: Mapping[str, Sequence[date]], rows: Mapping[str, int], *, horizon_days: int) -> Separation:
    """Check splits by their as-of dates and row counts, both keyed by "train", "validation", "test"."""
    empty = [split for split in _ORDER if not rows.get(split)]
    if empty:
        return Separation(False, f"The {empty[0]} split is empty.")
    gaps = {
        (earlier, later): (min(as_of[later]) - max(as_of[earlier])).days
        for earlier, later in zip(_ORDER, _ORDER[1:], strict=False)
    }
    (earlier, later), days = min(gaps.items(), key=lambda item: item[1])
    if days < horizon_days:
        return Separation(
            False, f"Labels of {earlier} reach into {later}: {days} days lie between, the horizon is {horizon_days}."
        )
    return Separation(True, f"{days} days or more lie between the splits, the label's horizon is {horizon_days}.")


Reports = Mapping[date, CheckReport]


class Verdict(Protocol):
    """The outcome of a check, with the reason in a sentence."""

    @property
    def success(self) -> bool: ...
    @property
    def sentence(self) -> str: ...


def check_features(run: Run, declared: FeatureView | Pipeline, nights: Sequence[date]) -> Reports:
    """Check as-of dates of a feature table, at the versions that the stage recorded."""
    table = declared.feature_table
    run.report_progress(f"checking {table}")
    versions = feature_versions(run.settings, declared, nights)
    states = {night: f"{table}@{version}" for night, version in versions.items()}
    expectations = feature_expectations(declared)
    return check_nights(run.settings, table, expectations, column=AS_OF, states=states)


def check_predictions(run: Run, declared: Pipeline | PluginTable, nights: Sequence[date]) -> Reports:
    """Check as-of dates of the current version of a prediction table."""
    table = declared.prediction_table
    run.report_progress(f"checking {table}")
    checked = open_table(run.settings, table)
    return check_nights(
        run.settings,
        table,
        prediction_expectations(declared) if isinstance(declared, Pipeline) else made_expectations(declared),
        column=AS_OF,
        states=partition_digests(checked, AS_OF, nights),
        version=checked.version(),
    )


def check_training_splits(declared: Pipeline | Realtime, result: StageResult) -> Separation:
    """Check that the splits of a training set are apart, by the details of its stage."""
    as_of = {split: [date.fromisoformat(day) for day in days] for split, days in result.details["as_of"].items()}
    rows = result.details["splits"]
    if isinstance(declared, Pipeline):
        return check_splits(as_of, rows, horizon_days=declared.trained_label.horizon_days)
    # The outcome of a request is known only after the last day of the horizon.
    horizon_days = declared.trained_examples.horizon_days
    found = check_splits(as_of, rows, horizon_days=horizon_days + 1)
    apart = f"{horizon_days} days without requests lie between the splits: every outcome is known by then."
    return replace(found, sentence=apart) if found.success else found


def require_success(verdicts: Mapping[date, Verdict]) -> None:
    """Raise CheckError for the first date that failed a check, with the reason."""
    for verdict in verdicts.values():
        if not verdict.success:
            raise CheckError(verdict.sentence, remedy="What was published stays. Mend the cause and run again.")
