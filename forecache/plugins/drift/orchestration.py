"""Drift in Dagster: checks of scores, reports, figures of as-of dates and of logged requests, and training anew."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from assets import checks
from assets.metadata import markdown_table, place_in_graph, stage_metadata
from assets.partitions import configured_day, pipeline_partitions
from assets.realtime import released_name
from assets.stage import RunStep, explain_errors
from assets.views import format_number
from forecache.base.results import StageResult
from forecache.base.settings import Settings
from forecache.declare import Pipeline, Realtime, Retraining
from forecache.declare.project import Project
from forecache.kit.process.wakes import RETRAINING
from forecache.lake.quality.expectations import DRIFT
from jobs.schedules import build_asset_job, build_cron_schedule, build_newest_night_schedule
from jobs.training import full_job_name, training_job_name
from resources.dagster_internals import NOT_FINISHED_STATUSES, RUN_KEY_TAG
from resources.settings_resource import SettingsResource

if TYPE_CHECKING:
    from forecache.plugins.drift.measurements import Measurement
    from forecache.plugins.drift.prediction_drift import DriftReport

EXPECTED = "expected_performance"
CLOSE = "close_to_training"
SHIFT = 0.25
"""A population stability index above this is a shift (Siddiqi 2006)."""
REASON_TAG = "forecache/reason"
_WARN, _ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR


def build_definitions(project: Project, settings: Settings) -> dg.Definitions:
    """Reports and monitoring of the pipelines, and of the real-time models that are trained here and have a log."""
    pipelines = list(project.pipelines.values())
    logged = [each for each in project.realtime.values() if each.log is not None and each.is_trained]
    return dg.Definitions.merge(
        dg.Definitions(assets=[build_drift_report(each) for each in pipelines if each.drift.report_rows]),
        *(define_monitoring(each) for each in pipelines if each.is_trained),
        *(define_log_monitoring(each) for each in logged),
    )


def define_monitoring(pipeline: Pipeline) -> dg.Definitions:
    """The figures of scored as-of dates; a job of its own, so that publishing does not wait for it."""
    about = f"Drift and realised performance of {pipeline.name} for an as-of date."
    job = build_asset_job(f"{pipeline.name}_monitor", about, [f"monitoring_{pipeline.name}"])
    about = f"An hour after the nightly run: what moved in {pipeline.name}."
    return dg.Definitions(
        assets=[build_monitoring(pipeline)],
        jobs=[job],
        schedules=[build_newest_night_schedule(pipeline, job, description=about, hours_later=1)],
        sensors=[build_retraining_sensor(pipeline)] if pipeline.retraining else [],
    )


def define_log_monitoring(realtime: Realtime) -> dg.Definitions:
    """The drift of each day's logged requests, after the day has ended in UTC and its last rows were committed."""
    about = f"Drift and expected performance of {realtime.name} on yesterday's logged requests."
    job = build_asset_job(f"{realtime.name}_monitor", about, [f"logged_drift_{realtime.name}"])
    about = f"Half an hour after midnight (UTC): what moved in {realtime.name}."
    schedule = build_cron_schedule(job, "30 0 * * *", about)
    return dg.Definitions(assets=[build_logged_drift(realtime)], jobs=[job], schedules=[schedule])


def list_nightly_assets(pipeline: Pipeline) -> list[str]:
    """List the assets of this plug-in that the nightly job of a pipeline materializes."""
    return [f"drift_report_{pipeline.name}"] if pipeline.drift.report_rows else []


def score_check_specs(pipeline: Pipeline, partitions: dg.PartitionsDefinition[str]) -> list[dg.AssetCheckSpec]:
    """The check of the prediction table's drift."""
    limits = pipeline.drift
    about = (
        f"{pipeline.main_output.name} against the {limits.last} as-of dates before and the model's test split: "
        f"a PSI above {limits.small_psi:g} warns, above {limits.large_psi:g} is an error"
        f"{', and nothing is published' if limits.blocking else ''}."
    )
    return [
        dg.AssetCheckSpec(
            DRIFT,
            asset=pipeline.prediction_table,
            blocking=limits.blocking,
            partitions_def=partitions,
            description=about,
        )
    ]


def check_scores(step: RunStep, pipeline: Pipeline, result: StageResult) -> Iterator[Any]:
    """An evaluation for each as-of date: a small effect is a warning, a large one an error."""
    from forecache.plugins.drift.prediction_drift import check_drift

    reports = check_drift(step.settings, pipeline, step.nights, run_id=step.run_id)
    verdicts = {
        night: checks.CheckVerdict(
            report.level == "none", report.sentence, drift_view(report), _ERROR if report.level == "large" else _WARN
        )
        for night, report in reports.items()
    }
    blocking = pipeline.drift.blocking
    yield from checks.check_events(step.context, pipeline.prediction_table, DRIFT, verdicts, blocking=blocking)


def drift_view(report: "DriftReport") -> dict[str, Any]:
    """The distances as a table and as figures, and the shares of rows in each bin."""
    rows = [
        (name, apart.reference_rows, apart.rows, apart.psi, apart.js, report.effect(name) or "not judged")
        for name, apart in report.distances.items()
    ]
    headers = ("against", "its rows", "rows", "PSI", "Jensen-Shannon", "effect")
    shares = {"this date": report.counts, **report.references}
    columns = [[f"{count / max(1, sum(counts)):.1%}" for count in counts] for counts in shares.values()]
    figures = {
        f"{name.replace(' ', '_')}_{figure}": getattr(apart, figure)
        for name, apart in report.distances.items()
        for figure in ("psi", "js")
    }
    return {
        "effect": report.level,
        **({"distances": markdown_table(headers, rows)} if rows else {}),
        **figures,
        "bins": markdown_table((report.output, *shares), zip(_bin_names(report.edges), *columns, strict=True)),
        **({"model_version": report.model_version} if report.model_version is not None else {}),
    }


def _bin_names(edges: tuple[float, ...] | tuple[str, ...]) -> list[str]:
    if not edges:
        return ["all"]
    if isinstance(edges[0], str):
        return [*map(str, edges), "other classes"]
    between = [f"{low:.4g} to {high:.4g}" for low, high in zip(edges, edges[1:], strict=False)]
    return [f"below {edges[0]:.4g}", *between, f"from {edges[-1]:.4g}"]


_REPORT = """Drift report: an HTML page on the drift of scores and features. No other asset depends on it.

It is written for the last as-of date of a run, from a sample, into the folder of reports and the model's MLflow run.
The verdict on drift is the check of the prediction table.
"""


def build_drift_report(pipeline: Pipeline) -> dg.AssetsDefinition:
    """The sampled report on a pipeline's predictions."""

    @dg.asset(
        name=f"drift_report_{pipeline.name}",
        deps=[pipeline.prediction_table],
        description=_REPORT,
        **place_in_graph(pipeline, stage="monitoring"),
        kinds={"html"},
        partitions_def=pipeline_partitions(pipeline),
        backfill_policy=dg.BackfillPolicy.single_run(),
        # Below the publisher's 0: predictions are published before reports about them are written.
        op_tags={"dagster/priority": "-1"},
    )
    @explain_errors
    def write_report(context: dg.AssetExecutionContext, settings: SettingsResource) -> Iterator[Any]:
        from forecache.plugins.drift.sampled_report import write_drift_report

        step = RunStep(context, settings.load())
        night = step.nights[-1]
        result = step.run_stage(write_drift_report, step.settings, pipeline, night)
        yield dg.MaterializeResult(
            metadata={
                **stage_metadata(step.settings, result),
                "as_of": str(night),
                "reference": result.details["reference"] or "nothing yet: no test split and no date before",
                **_page_metadata(result.details),
            }
        )

    return write_report


def _page_metadata(details: Mapping[str, Any]) -> dict[str, Any]:
    if not details["path"]:
        return {}
    return {
        "report": dg.MetadataValue.path(details["path"]),
        "mlflow_artifact": details["mlflow_artifact"] or "none: the model has no MLflow run",
        "reference_rows": details["reference_rows"],
        "columns": ", ".join(details["columns"]),
    }


_MONITORING = """\
Monitoring: drift of features and predictions since the champion was trained, and the champion's real performance.

The performance of an as-of date is known once its label horizon has passed, and is measured with the date that
completes it. The figures are rows of the table `monitoring`; the sensor of a pipeline that declares retraining reads
them.
"""


def build_monitoring(pipeline: Pipeline) -> dg.AssetsDefinition:
    """Drift and performance of a pipeline's as-of dates."""
    name, has_estimate = f"monitoring_{pipeline.name}", pipeline.task in ("binary", "multiclass")
    about = (
        "The gate's metric is not surely expected to be worse than on the test split, by more than "
        f"{_max_metric_drop(pipeline):g}, on the latest as-of date; labels are not known yet."
    )

    @dg.asset(
        name=name,
        deps=[pipeline.feature_table, pipeline.prediction_table],
        description=_MONITORING,
        **place_in_graph(pipeline, stage="monitoring"),
        kinds={"deltalake", "python"},
        partitions_def=pipeline_partitions(pipeline),
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=[dg.AssetCheckSpec(EXPECTED, asset=name, description=about)] if has_estimate else [],
    )
    @explain_errors
    def measure_nights(context: dg.AssetExecutionContext, settings: SettingsResource) -> Iterator[Any]:
        from forecache.plugins.drift.measurements import measurements, monitoring_figures
        from forecache.plugins.drift.monitor import monitor
        from forecache.plugins.drift.retraining import retraining_decision

        step = RunStep(context, settings.load())
        current, nights = step.settings, step.nights
        result = step.run_stage(monitor, current, pipeline, nights)
        figures = measurements(current, pipeline.name, first=nights[0], last=nights[-1])
        for night in nights:
            context.add_asset_metadata(monitoring_figures(figures, night), partition_key=night.isoformat())
        asked = pipeline.retraining is not None
        notes = result.details["notes"][nights[-1].isoformat()]
        yield dg.MaterializeResult(
            metadata={
                **stage_metadata(current, result),
                "verdict": retraining_decision(current, pipeline).reason if asked else "no retraining is declared",
                "figures": _monitoring_view(figures, nights[-1]),
                **({"notes": "; ".join(notes)} if notes else {}),
            },
            check_results=[_performance_check(pipeline, figures, nights[-1])] if has_estimate else [],
        )

    return measure_nights


def _max_metric_drop(pipeline: Pipeline) -> float:
    drop = pipeline.retraining.max_metric_drop if pipeline.retraining else None
    return Retraining().max_metric_drop or 0.0 if drop is None else drop


def _performance_check(pipeline: Pipeline, figures: "list[Measurement]", night: date) -> dg.AssetCheckResult:
    metric = pipeline.trained_gate.metric
    found = next((m for m in figures if (m.run_date, m.kind, m.name) == (night, "estimate", metric)), None)
    if found is None:
        return dg.AssetCheckResult(check_name=EXPECTED, passed=True, description=f"{metric} is not estimated.")
    low, high = found.effect_low or 0.0, found.effect_high or 0.0
    said = (
        f"{metric} {found.value:.4f} is expected on {night}, {found.reference_value:.4f} was measured on the test "
        f"split: worse by {found.effect:.4f} ({low:.4f} to {high:.4f})."
    )
    return dg.AssetCheckResult(
        check_name=EXPECTED,
        passed=not (found.effect > _max_metric_drop(pipeline) and low > 0),
        severity=_WARN,
        description=said,
        metadata={"value": found.value or 0.0, "effect": found.effect, "effect_low": low, "effect_high": high},
    )


def _monitoring_view(figures: "Iterable[Measurement]", night: date) -> dg.MarkdownMetadataValue:
    """Measurements of an as-of date, the largest effects first."""
    rows = [
        (m.kind, m.name, m.reference, m.effect, *map(format_number, (m.js, m.value, m.reference_value)), m.rows)
        for m in sorted(figures, key=lambda m: (m.kind, -m.effect))
        if m.run_date == night
    ]
    headers = ("kind", "of", "against", "effect", "JS distance", "value", "reference", "rows")
    return markdown_table(headers, rows)


def build_retraining_sensor(pipeline: Pipeline) -> dg.SensorDefinition:
    """Requests one training, as of the latest date, each time that the figures exceed their limits."""

    @dg.sensor(
        name=f"{pipeline.name}_drifted",
        job_name=training_job_name(pipeline),
        minimum_interval_seconds=int(RETRAINING.every_s),
        description=f"Trains {pipeline.name} again when figures are beyond their limits; the gate decides as always.",
    )
    def request_training(
        context: dg.SensorEvaluationContext, settings: SettingsResource
    ) -> dg.RunRequest | dg.SkipReason:
        from forecache.plugins.drift.retraining import retraining_decision

        decision = retraining_decision(settings.load(), pipeline)
        if not decision.retrain:
            return dg.SkipReason(decision.reason)
        run_key = f"{pipeline.name} champion {decision.key}"
        waits_for = _describe_requested_run(context.instance, run_key) or _describe_running_training(
            context.instance, pipeline
        )
        if waits_for:
            return dg.SkipReason(f"{waits_for} {decision.reason}")
        assert decision.night is not None
        config = {"ops": {pipeline.training_table: {"config": {"as_of": decision.night.isoformat()}}}}
        return dg.RunRequest(run_key=run_key, run_config=config, tags={REASON_TAG: decision.reason})

    return request_training


def _describe_requested_run(instance: dg.DagsterInstance, run_key: str) -> str:
    """A sentence about the run that was already requested for the same reason; "" if there is none."""
    runs = instance.get_runs(filters=dg.RunsFilter(tags={RUN_KEY_TAG: run_key}), limit=1)
    if not runs:
        return ""
    again = " Execute it again if its cause is mended." if runs[0].is_failure_or_canceled else ""
    return f"Run {runs[0].run_id} was requested for this and is {runs[0].status.value}.{again}"


def _describe_running_training(instance: dg.DagsterInstance, pipeline: Pipeline) -> str:
    """A sentence about a training that is running; "" if there is none."""
    for name in (training_job_name(pipeline), full_job_name(pipeline)):
        runs = instance.get_runs(filters=dg.RunsFilter(job_name=name, statuses=NOT_FINISHED_STATUSES), limit=1)
        if runs:
            return f"Run {runs[0].run_id} of {name} has not ended yet."
    return ""


class LoggedDriftConfig(dg.Config):
    """Configuration of a drift run."""

    day: str = Field("", description="Date in UTC (YYYY-MM-DD) whose requests are looked at. Default: yesterday.")


_LOGGED = """\
Drift of a real-time model: all logged requests of a day against its training data, and its expected performance.

The reader's live drift covers only a sample of the requests. The figures are rows of the table `monitoring`.
"""


def build_logged_drift(realtime: Realtime) -> dg.AssetsDefinition:
    """The drift of a day's logged requests."""
    name = f"logged_drift_{realtime.name}"
    about = f"No feature and no score is further than a PSI of {SHIFT} from the training data."

    @dg.asset(
        name=name,
        deps=[released_name(realtime)],
        description=_LOGGED,
        **place_in_graph(realtime, stage="monitoring"),
        kinds={"deltalake", "python"},
        check_specs=[dg.AssetCheckSpec(CLOSE, asset=name, description=about)],
    )
    @explain_errors
    def measure_logged_drift(
        context: dg.AssetExecutionContext, config: LoggedDriftConfig, settings: SettingsResource
    ) -> Iterator[Any]:
        from forecache.plugins.drift.log_monitoring import monitor_log
        from forecache.plugins.drift.measurements import measurements, monitoring_figures

        step, day = RunStep(context, settings.load()), configured_day(config.day)
        result = step.run_stage(monitor_log, step.settings, realtime, day)
        figures = measurements(step.settings, realtime.name, first=day, last=day)
        judged = [each for each in figures if each.kind in ("feature", "prediction") and each.effect > SHIFT]
        moved = [(each.name, each.effect) for each in sorted(judged, key=lambda m: -m.effect)]
        about = f"On {day}: {', '.join(f'{name} {effect:.3f}' for name, effect in moved) or 'nothing has moved'}."
        yield dg.MaterializeResult(
            metadata={
                **stage_metadata(step.settings, result),
                **monitoring_figures(figures, day),
                "day": day.isoformat(),
                "figures": _monitoring_view(figures, day),
                "notes": "; ".join(result.details["notes"]),
            },
            check_results=[
                dg.AssetCheckResult(
                    check_name=CLOSE, passed=not moved, severity=_WARN, description=about, metadata=dict(moved)
                )
            ],
        )

    return measure_logged_drift
