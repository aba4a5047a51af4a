"""The monitoring stage: measures as-of dates, once for the same inputs, and appends figures to the monitoring table."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING

from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.declare import Pipeline
from forecache.declare.code.fingerprint import fingerprint
from forecache.kit.delta.tables import table_exists, table_version
from forecache.lake.feature_tables.features import feature_versions
from forecache.lake.ledger import StageRecord, last_records
from forecache.lake.sources import Pins, source_states, state_history
from forecache.lake.stage import Stage, StageOutcome
from forecache.models.registry.model_versions import ModelVersion, champion, list_models
from forecache.plugins.drift.distributions.drift import measure_drift
from forecache.plugins.drift.expected_performance import expected_performance
from forecache.plugins.drift.feature_drift import feature_drift
from forecache.plugins.drift.measurements import MONITORING_TABLE, Measurement, append_measurements
from forecache.plugins.drift.performance import labelled_predictions, measure_performance
from forecache.scoring.night_inputs import STAGE as SCORE
from forecache.scoring.night_inputs import require_scored

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

STAGE = "monitoring"
_FORMAT = 2
_NIGHTS_AT_ONCE = 31
# Up to so many rows one process counts a date faster than Spark plans the job.
_SPARK_ROWS = 5_000_000


@dataclass(frozen=True)
class _MonitoringRun:
    """Inputs that all as-of dates of one call share."""

    settings: Settings
    pipeline: Pipeline
    session: Callable[[], "SparkSession"]
    champion: ModelVersion
    versions: Mapping[int, ModelVersion]
    scored: Mapping[date | None, StageRecord]
    run_id: str


def monitor(
    session: Callable[[], "SparkSession"],
    settings: Settings,
    pipeline: Pipeline,
    nights: Sequence[date],
    *,
    run_id: str = "",
    progress: Progress = no_progress,
) -> StageResult:
    """Measure scored dates: drift, expected performance, and the realised performance of a label horizon before.

    `session` is called only to compute labels, and for dates with millions of rows. Of the result, `rows` is the number
    of figures; `details`: `measured` (dates) and, by date, `notes` on what was not measured. NotFoundError if there is
    no champion, or a date has no features or no predictions.
    """
    started = time.perf_counter()
    versions = {version.version: version for version in list_models(settings, pipeline)}
    scored = last_records(settings, SCORE, pipeline.name)
    run = _MonitoringRun(settings, pipeline, session, champion(settings, pipeline), versions, scored, run_id)
    inputs = _inputs(run, nights)

    def report_progress(some: Sequence[date], share: float) -> None:
        progress(f"monitoring {pipeline.name} on {some[0]} to {some[-1]}", share)

    stage = Stage(settings, STAGE, pipeline.name, run_id)
    known, measured = stage.run_nights(
        inputs, partial(_measure, run), at_once=_NIGHTS_AT_ONCE, progress=report_progress
    )
    return StageResult(
        stage=STAGE,
        subject=pipeline.name,
        rows=sum(row.rows for row in known.values()),
        seconds=time.perf_counter() - started,
        nights=tuple(sorted(inputs)),
        table=MONITORING_TABLE,
        delta_version=table_version(settings, MONITORING_TABLE) if table_exists(settings, MONITORING_TABLE) else None,
        skipped=not measured,
        details={
            "measured": [night.isoformat() for night in measured],
            "notes": {night.isoformat(): known[night].details["notes"] for night in sorted(known)},
        },
    )


def _inputs(run: _MonitoringRun, nights: Sequence[date]) -> dict[date, str]:
    pins = Pins(run.settings)
    raw = source_states(run.settings, run.pipeline.all_sources, nights, pins=pins)
    known = [night for night in nights if night in run.scored]
    versions, inputs = feature_versions(run.settings, run.pipeline, known), {}
    for night in nights:
        require_scored(run.pipeline, night, run.scored)
        days = [day for day in newly_labelled_dates(run.pipeline, night) if day in run.scored]
        labelled = [_prediction_state(run.scored[day]) for day in days]
        # The state of a date does not cover the days before it, on which labels depend.
        histories = [
            state_history(run.settings, source, min(days) + timedelta(days=1), night, pins=pins)
            for source in (run.pipeline.label_sources if days else ())
        ]
        inputs[night] = (
            f"champion={run.champion.version} {run.pipeline.feature_table}"
            f"@{versions[night]} {_prediction_state(run.scored[night])} "
            f"labelled={','.join(labelled) or 'none'} {raw[night]}{''.join(histories)} "
            f"{declared_inputs(run.pipeline)}"
        )
    return inputs


def declared_inputs(pipeline: Pipeline) -> str:
    """Return the parts of the declaration that figures depend on; the drift's limits do not change them."""
    gate = pipeline.trained_gate
    own = f" own={fingerprint(metrics=gate.metrics)}" if gate.metrics else ""
    return (
        f"label={pipeline.fingerprints.training_set} metric={gate.metric}{own} "
        f"nights_before={pipeline.drift.last} format={_FORMAT}"
    )


def _prediction_state(scored: StageRecord) -> str:
    return f"{scored.table}@{scored.delta_version}"


def newly_labelled_dates(pipeline: Pipeline, night: date) -> Sequence[date]:
    """Return the as-of dates whose labels are known by an as-of date, and were not by the one before it."""
    horizon, day = timedelta(days=pipeline.trained_label.horizon_days), timedelta(days=1)
    return pipeline.schedule.as_of_dates(
        pipeline.schedule.last_as_of_until(night - day) - horizon + day, night - horizon
    )


def _measure(run: _MonitoringRun, nights: Sequence[date]) -> dict[date, StageOutcome]:
    figures = _measure_drift(run, nights)
    notes: dict[date, list[str]] = {night: [] for night in nights}
    for night in nights:
        expected, note = _estimate_performance(run, night)
        figures[night] += expected
        notes[night] += [note] if note else []
    for night, found, note in _measure_performance(run, nights):
        figures[night] += [found] if found else []
        notes[night] += [note] if note else []
    append_measurements(run.settings, [row for night in nights for row in figures[night]])
    version = table_version(run.settings, MONITORING_TABLE)
    return {
        night: StageOutcome(len(figures[night]), {"notes": notes[night]}, MONITORING_TABLE, version) for night in nights
    }


def _measure_drift(run: _MonitoringRun, nights: Sequence[date]) -> dict[date, list[Measurement]]:
    """The drift of the champion's features, and of the scores of the version that made a date's predictions."""
    large = max(run.scored[night].rows for night in nights) > _SPARK_ROWS
    spark = run.session() if large else None
    reports = measure_drift(run.settings, run.pipeline, nights, spark=spark)
    figures = {}
    for night in nights:
        figures[night] = feature_drift(
            run.settings, run.pipeline, run.champion, night, spark=spark, run_id=run.run_id
        ) + [
            Measurement(
                pipeline=run.pipeline.name,
                night=night,
                as_of=night,
                kind="prediction",
                name=reports[night].output,
                reference=reference,
                model_version=int(run.scored[night].details["model_version"]),
                effect=apart.psi,
                js=apart.js,
                rows=apart.rows,
                reference_rows=apart.reference_rows,
                run_id=run.run_id,
            )
            for reference, apart in reports[night].distances.items()
        ]
    return figures


def _estimate_performance(run: _MonitoringRun, night: date) -> tuple[list[Measurement], str]:
    """The expected performance of a date's predictions, by the version that made them."""
    model = run.versions.get(int(run.scored[night].details["model_version"]))
    if model is None:
        return [], ""
    return expected_performance(run.settings, run.pipeline, model, night, run_id=run.run_id)


def _measure_performance(run: _MonitoringRun, nights: Sequence[date]) -> list[tuple[date, Measurement | None, str]]:
    """The realised performance of dates whose labels became known, or why there is none, each with the date of that."""
    metric = run.pipeline.trained_gate.metric
    result: list[tuple[date, Measurement | None, str]] = []
    models: dict[date, tuple[date, ModelVersion]] = {}
    for night in nights:
        for day in newly_labelled_dates(run.pipeline, night):
            scored = run.scored.get(day)
            version = int(scored.details["model_version"]) if scored else None
            if version is None:
                result.append((night, None, f"no performance: {day} was not scored"))
            elif version not in run.versions or metric not in run.versions[version].metrics:
                result.append((night, None, f"no performance: the registry has no test metrics of version {version}"))
            else:
                models[day] = night, run.versions[version]
    if not models:
        return result
    examples = labelled_predictions(run.session(), run.settings, run.pipeline, list(models))
    for day, (night, model) in models.items():
        found = None
        if day in examples:
            found = measure_performance(run.pipeline, model, day, *examples[day], night=night, run_id=run.run_id)
        note = "" if found else f"no performance: {metric} has no value on the labels of {day}"
        if run.pipeline.output_specs[0].top is not None:
            note = "no performance: the probabilities of some classes are not kept (Classes(probabilities=...))"
        result.append((night, found, note))
    return result
