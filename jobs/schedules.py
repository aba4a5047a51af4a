"""Jobs and schedules of all kinds: partition tags of as-of dates, the newest dates, the sensor for late deliveries."""

from collections.abc import Sequence
from datetime import date, datetime, timezone

import dagster as dg

from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings, load_settings
from forecache.declare.as_of import ScheduledDeclaration, due_as_of_dates
from forecache.kit.process.wakes import DELIVERIES
from resources.dagster_internals import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)
from resources.dagster_internals import UnresolvedAssetJobDefinition as AssetJob
from resources.settings_resource import SettingsResource


def build_asset_job(
    name: str, about: str, selection: dg.AssetSelection | Sequence[str] | Sequence[dg.AssetsDefinition]
) -> AssetJob:
    """A job of assets whose steps run in one process, where they share a Spark session."""
    return dg.define_asset_job(name, selection=selection, description=about, executor_def=dg.in_process_executor)


def build_op_job(op: dg.OpDefinition, name: str, about: str) -> dg.JobDefinition:
    """A job of one op."""

    @dg.job(name=name, description=about, executor_def=dg.in_process_executor)
    def run_op() -> None:
        op()

    return run_op


def build_cron_schedule(
    job: AssetJob | dg.JobDefinition, cron: str, about: str, *, time_zone: str = "UTC", is_running: bool = False
) -> dg.ScheduleDefinition:
    """A schedule of a job without partitions; `is_running` switches it on by default."""
    return dg.ScheduleDefinition(
        name=f"{job.name}_schedule", job=job, cron_schedule=cron, execution_timezone=time_zone, description=about,
        default_status=_default_status(is_running=is_running),
    )  # fmt: skip


def _default_status(*, is_running: bool = False) -> dg.DefaultScheduleStatus:
    runs = is_running or load_settings().schedules == "on"
    return dg.DefaultScheduleStatus.RUNNING if runs else dg.DefaultScheduleStatus.STOPPED


ENVIRONMENT_TAG = "forecache/environment"


def partition_tags(first: date, last: date) -> dict[str, str]:
    """Tags of a run for one as-of date, or for a range of dates in one run; and the chosen environment."""
    environment = load_settings().environment
    named = {ENVIRONMENT_TAG: environment} if environment else {}
    if first == last:
        return {PARTITION_NAME_TAG: first.isoformat(), **named}
    ends = {ASSET_PARTITION_RANGE_START_TAG: first.isoformat(), ASSET_PARTITION_RANGE_END_TAG: last.isoformat()}
    return {**ends, **named}


def delivery_sensor_name(job: AssetJob) -> str:
    """Name of the sensor that starts a job once all its sources have delivered."""
    return f"{job.name}_delivered"


def describe_late_sources(pipeline: ScheduledDeclaration, settings: Settings, first: date, last: date) -> str:
    """The sources that are late for the first such as-of date, as "orders has not delivered 2026-01-02"; else ""."""
    from forecache.lake.sources import find_awaited_sources

    for night in pipeline.schedule.as_of_dates(first, last):
        late = find_awaited_sources(settings, pipeline.all_sources, night)
        if late:
            return f"{', '.join(late)} has not delivered {night}"
    return ""


def not_delivered_reason(job: AssetJob, late: str) -> str:
    return f"Not yet: {late}. The sensor {delivery_sensor_name(job)} runs it once that is there."


def build_newest_night_schedule(
    pipeline: ScheduledDeclaration, job: AssetJob, *, description: str, hours_later: int = 0
) -> dg.ScheduleDefinition:
    """A schedule for the due as-of dates of a pipeline; after the end of its data, for the last one.

    It skips if a source with missing="wait" has not delivered one of the dates.

    Args:
        hours_later: Hours between the start of the pipeline's own schedule and the start of this one.
    """
    schedule = pipeline.schedule
    runs = schedule.run_cron
    waits = any(source.missing == "wait" for source in pipeline.all_sources)
    # A later hour past midnight cannot be written for the days of the expression: then it starts every day.
    cron = runs.shift_hours(hours_later) or f"{runs.minute} {(runs.hour + hours_later) % 24} * * *"

    @dg.schedule(
        job=job,
        name=f"{job.name}_schedule",
        cron_schedule=cron,
        execution_timezone=schedule.time_zone,
        description=description,
        default_status=_default_status(),
        required_resource_keys={"settings"} if waits else None,
    )
    def request_newest_nights(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        moment = context.scheduled_execution_time
        first, last = due_as_of_dates(pipeline, schedule.latest_run(moment) if hours_later else moment)
        if last < pipeline.start:
            return dg.SkipReason(f"Pipeline {pipeline.name} starts on {pipeline.start}.")
        try:
            late = describe_late_sources(pipeline, context.resources.settings.load(), first, last) if waits else ""
        except ForecacheError as error:
            # A failed tick is not repeated; a run reports the error, and is retried.
            context.log.warning(str(error))
            late = ""
        if late:
            return dg.SkipReason(not_delivered_reason(job, late))
        return dg.RunRequest(tags=partition_tags(first, last))

    return request_newest_nights


_FAILED = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


def build_delivery_sensors(pipeline: ScheduledDeclaration, job: AssetJob) -> list[dg.SensorDefinition]:
    """A sensor, if a source of the pipeline has missing="wait"; else an empty list.

    The sensor requests a run of the due dates once, unless the job already has a run of them, such as the schedule's. A
    failed run does not count: somebody may have started it before the delivery.
    """
    if all(source.missing != "wait" for source in pipeline.all_sources):
        return []

    @dg.sensor(
        name=delivery_sensor_name(job),
        job=job,
        minimum_interval_seconds=int(DELIVERIES.every_s),
        description=f"Runs {pipeline.name} for what was due last, once every source that waits has delivered it.",
    )
    def request_due_nights(
        context: dg.SensorEvaluationContext, settings: SettingsResource
    ) -> dg.RunRequest | dg.SkipReason:
        schedule = pipeline.schedule
        first, last = due_as_of_dates(pipeline, schedule.latest_run(datetime.now(timezone.utc)))
        if last < pipeline.start:
            return dg.SkipReason(f"Pipeline {pipeline.name} starts on {pipeline.start}.")
        tags = partition_tags(first, last)
        statuses = [status for status in dg.DagsterRunStatus if status not in _FAILED]
        if context.instance.get_runs(dg.RunsFilter(job_name=job.name, tags=tags, statuses=statuses), limit=1):
            return dg.SkipReason(f"As-of date {last} was run.")
        late = describe_late_sources(pipeline, settings.load(), first, last)
        if late:
            return dg.SkipReason(not_delivered_reason(job, late))
        return dg.RunRequest(run_key=last.isoformat(), tags=tags)

    return [request_due_nights]
