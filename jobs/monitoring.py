"""Jobs for figures: monitoring of a pipeline, with the sensor that trains it again, and the daily cost report."""

from typing import Any

import dagster as dg

from assets.monitoring import monitoring_name
from forecache.base.plugins import load_hook
from forecache.declare import Pipeline
from forecache.kit.process.wakes import RETRAINING
from jobs.schedules import AssetJob, build_asset_job, build_cron_schedule, build_newest_night_schedule
from jobs.training import full_job_name, training_job_name
from resources.dagster_internals import NOT_FINISHED_STATUSES, RUN_KEY_TAG
from resources.settings import SettingsResource

REASON_TAG = "forecache/reason"


def monitoring_job_name(pipeline: Pipeline) -> str:
    return f"monitor_{pipeline.name}"


def build_monitoring_job(pipeline: Pipeline) -> AssetJob:
    """The figures of scored as-of dates; a job of its own, so that publishing does not wait for it."""
    about = f"Drift and realised performance of {pipeline.name} for a night."
    return build_asset_job(monitoring_job_name(pipeline), about, [monitoring_name(pipeline)])


def build_monitoring_schedule(pipeline: Pipeline, job: AssetJob) -> dg.ScheduleDefinition:
    """An hour after the nightly run starts, for its as-of dates."""
    about = f"An hour after the nightly run: what moved in {pipeline.name}."
    return build_newest_night_schedule(pipeline, job, description=about, hours_later=1)


def build_retraining_sensor(pipeline: Pipeline, job: AssetJob) -> dg.SensorDefinition:
    """Requests one training, as of the latest date, each time that the figures exceed their limits."""

    @dg.sensor(
        name=f"{pipeline.name}_drifted",
        job=job,
        minimum_interval_seconds=int(RETRAINING.every_s),
        description=f"Trains {pipeline.name} again when figures are beyond their limits; the gate decides as always.",
    )
    def request_training(
        context: dg.SensorEvaluationContext, settings: SettingsResource
    ) -> dg.RunRequest | dg.SkipReason:
        decision = load_hook("drift", "retraining_decision")(settings.load(), pipeline)
        if not decision.retrain:
            return dg.SkipReason(decision.reason)
        run_key = f"{pipeline.name} champion {decision.key}"
        waits_for = _describe_requested_run(context.instance, run_key) or _describe_running_training(
            context.instance, pipeline
        )
        if waits_for:
            return dg.SkipReason(f"{waits_for} {decision.reason}")
        return dg.RunRequest(
            run_key=run_key, run_config=_training_config(pipeline, decision), tags={REASON_TAG: decision.reason}
        )

    return request_training


def _training_config(pipeline: Pipeline, decision: Any) -> dict[str, object]:
    assert decision.night is not None
    return {"ops": {pipeline.training_table: {"config": {"night": decision.night.isoformat()}}}}


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


COST_CRON = "0 7 * * *"


def build_cost_job(asset: dg.AssetsDefinition) -> AssetJob:
    about = "What stages, training, storage and replicas cost a day, as means of the last week."
    return build_asset_job("cost_report", about, [asset])


def build_cost_schedule(job: AssetJob) -> dg.ScheduleDefinition:
    """Every day at 07:00 UTC, after the nightly runs."""
    about = "Every day at 07:00 UTC: what everything cost in the last week."
    return build_cron_schedule(job, COST_CRON, about)
