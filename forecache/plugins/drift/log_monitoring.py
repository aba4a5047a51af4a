"""Measures drift and expected performance of a day's requests from all of its logged answers.

The bins are those in which a reader counts its sample; see `forecache.plugins.drift.live_counts`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

from forecache.base.errors import NotFoundError
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.base.statistics import distance
from forecache.declare.realtime.realtime import Realtime
from forecache.kit.delta.comparison.partition import partition_digests
from forecache.kit.delta.tables import open_table, table_version
from forecache.lake.stage_runner import Stage, StageOutcome
from forecache.models.registry.model_versions import list_models
from forecache.plugins.drift.expected_performance import (
    CALIBRATIONS,
    NO_CALIBRATION,
    estimate_measurements,
    evaluation_of,
)
from forecache.plugins.drift.feature_drift import TRAINING_SPLIT
from forecache.plugins.drift.live_counts import NULL, SCORE, DriftReference, read_reference
from forecache.plugins.drift.measurements import (
    MONITORING_TABLE,
    Kind,
    Measurement,
    append_measurements,
    drift_measurement,
)
from forecache.plugins.drift.prediction_drift import TEST_SPLIT
from forecache.realtime.log.read import read_log
from forecache.realtime.log.record import DAY, table_of
from forecache.realtime.release.folder import open_releases, read_files, read_release
from forecache.realtime.release.follow_lake import fetch_missing_releases
from forecache.realtime.release.format import BINS_FILE, Release
from forecache.realtime.request.request_answer import MODEL

if TYPE_CHECKING:
    import pyarrow as pa

STAGE = "log_monitoring"
_COLUMNS = ("release", "variant", "items", "features", "scores", "score_dtype", "answered_by")
_CURRENT = ("current", "control")
"""Variants of the current release during canary steps."""


@dataclass
class _ReleaseCounts:
    """The counts and scores of one release on a day."""

    release: Release
    reference: DriftReference | None
    counts: np.ndarray[Any, Any] | None = None  # of `DriftReference.count`; None if the release has no bins
    scores: list[np.ndarray[Any, Any]] = field(default_factory=list)  # by the model, without NaN


def monitor_log(
    settings: Settings, realtime: Realtime, day: date, *, run_id: str = "", progress: Progress = no_progress
) -> StageResult:
    """Measure a day (UTC) of a real-time model's log: drift of features and scores, and expected performance.

    Of the result, `rows` are logged answers of the day, and `details["notes"]` say what could not be measured. Skipped
    if the day's rows are those that were measured before; NotFoundError if nothing was logged on it.
    """
    stage = Stage(settings, STAGE, realtime.name, run_id)
    table = open_table(settings, table_of(realtime.name))
    inputs = f"{partition_digests(table, DAY, [day])[day]} version=1"

    def measure() -> StageOutcome:
        progress(f"reading the log of {realtime.name} on {day}", 0.1)
        counted, answers = _count_day(settings, realtime.name, day)
        if not answers:
            raise NotFoundError(
                f"Nothing of {realtime.name} was logged on {day}.",
                remedy=f"`forecache log show {realtime.name}` shows what is there; days are in UTC.",
            )
        figures, notes = _measure_figures(settings, realtime, day, list(counted.values()), run_id)
        append_measurements(settings, figures)
        version = table_version(settings, MONITORING_TABLE) if figures else -1
        return StageOutcome(
            answers, {"notes": notes, "figures": len(figures)}, MONITORING_TABLE if figures else "", version
        )

    row, skipped = stage.run_once(inputs, measure, night=day)
    return stage.result(row.rows, nights=[day], skipped=skipped, details=dict(row.details))


def _count_day(settings: Settings, name: str, day: date) -> tuple[dict[int, _ReleaseCounts], int]:
    """Count inputs and scores of the current variant by release; returns also the number of all answers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found: dict[int, _ReleaseCounts] = {}
    answers = 0
    for batch in read_log(settings, name, days=[day], columns=_COLUMNS):
        answers += batch.num_rows
        is_current = pc.is_in(batch["variant"], pa.array(_CURRENT))
        rows = batch.filter(pc.and_(is_current, batch["features"].is_valid()))
        for number in pc.unique(rows["release"]).to_pylist():
            if number not in found:
                fetch_missing_releases(settings, name, [number])
                found[number] = _open_counts(settings, name, number)
            _add_answers(found[number], rows.filter(pc.equal(rows["release"], number)))
    return found, answers


def _open_counts(settings: Settings, name: str, number: int) -> _ReleaseCounts:
    folder = open_releases(settings, name)
    release = read_release(folder, number)
    if BINS_FILE not in release.files:
        return _ReleaseCounts(release, None)
    content = read_files(folder.release(number), {BINS_FILE: release.files[BINS_FILE]})[BINS_FILE]
    reference = read_reference(content)
    return _ReleaseCounts(release, reference, np.zeros(len(reference.columns) * reference.width, np.int64))


def _add_answers(counted: _ReleaseCounts, rows: "pa.RecordBatch") -> None:
    features = np.frombuffer(b"".join(rows["features"].to_pylist()), "<f4")
    features = features.reshape(-1, len(counted.release.features))
    scores = [
        np.frombuffer(score, dtype) if answered_by == MODEL and score is not None else np.full(items, np.nan)
        for score, dtype, answered_by, items in zip(
            *(rows[name].to_pylist() for name in ("scores", "score_dtype", "answered_by", "items")), strict=True
        )
    ]
    together = np.concatenate(scores)
    counted.scores.append(together[~np.isnan(together)])
    reference = counted.reference
    if reference is not None and counted.counts is not None:
        has_score = reference.has_score
        values = np.column_stack([features, together.astype(np.float32)]) if has_score else features
        counted.counts += reference.count(values)


def _measure_figures(
    settings: Settings, realtime: Realtime, day: date, counted: Sequence[_ReleaseCounts], run_id: str
) -> tuple[list[Measurement], list[str]]:
    """Compute the figures of a day by model version; releases of one version with the same bins are added up."""
    figures: list[Measurement] = []
    notes: list[str] = []
    together: dict[tuple[int, int], _ReleaseCounts] = {}
    for each in counted:
        version = each.release.model.version
        if each.reference is None or each.counts is None:
            notes.append(f"no drift: release {each.release.number} knows nothing of its training data")
            continue
        known = together.setdefault((version, each.reference.key), each)
        if known is not each and known.counts is not None:
            known.counts += each.counts
    for (version, _), each in together.items():
        figures += _measure_drift(realtime.name, day, version, each, run_id)
    scores: dict[int, list[np.ndarray[Any, Any]]] = {}
    for each in counted:
        scores.setdefault(each.release.model.version, []).extend(each.scores)
    for version, parts in scores.items():
        expected, note = expected_log_performance(settings, realtime, day, version, parts, run_id=run_id)
        figures += expected
        notes += [note] if note else []
    return figures, notes


def _measure_drift(name: str, day: date, version: int, counted: _ReleaseCounts, run_id: str) -> list[Measurement]:
    reference, counts = counted.reference, counted.counts
    assert reference is not None
    assert counts is not None
    found = []
    for place, column in enumerate(reference.columns):
        now, before = reference.counts_by_bin(place, counts.tolist()), reference.training_counts_by_bin(place)
        rows, known = sum(now.values()), sum(before.values())
        if not rows or not known:
            continue
        apart = distance(list(before.values()), list(now.values()))
        is_score = column.name == SCORE
        kind: Kind = "prediction" if is_score else "feature"
        reference_name = TEST_SPLIT if is_score else TRAINING_SPLIT
        nulls = now[NULL] / rows, before[NULL] / known
        found.append(
            drift_measurement(name, day, kind, column.name, reference_name, version, apart, nulls, run_id=run_id)
        )
    return found


def expected_log_performance(
    settings: Settings,
    realtime: Realtime,
    day: date,
    version: int,
    parts: Sequence[np.ndarray[Any, Any]],
    *,
    run_id: str = "",
) -> tuple[list[Measurement], str]:
    """Estimate the metrics of a version on its logged scores, floats [n] without NaN; returns the figures, or why
    there are none. Both are empty if the model is no binary classifier that was trained here."""
    if not realtime.is_trained or realtime.task != "binary" or not parts:
        return [], ""
    model = next((each for each in list_models(settings, realtime) if each.version == version), None)
    evaluation = {} if model is None else evaluation_of(settings, model)
    if model is None or not evaluation.get(CALIBRATIONS):
        return [], NO_CALIBRATION.format(version)
    score = np.concatenate(parts).astype(np.float64)
    return estimate_measurements(realtime, model, evaluation, day, score, run_id) if len(score) else [], ""
