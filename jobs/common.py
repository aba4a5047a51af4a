"""As-of dates of runs: their partition tags, the schedule of the newest dates, the sensor for dates that came late."""

from datetime import date

import dagster as dg

from forecache.errors import ForecacheError
from forecache.pipeline.schedules.as_of import Scheduled, due_nights
from forecache.settings import Settings
from resources.dagster_internals import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)
from resources.dagster_internals import UnresolvedAssetJobDefinition as AssetJob

__all__ = ["AssetJob", "delivered_name", "late_sources", "newest_night_schedule", "night_tags", "not_yet"]


def night_tags(first: date, last: date) -> dict[str, str]:
    """Tags of a run for one as-of date, or for a range of dates in one run."""
    if first == last:
        return {PARTITION_NAME_TAG: first.isoformat()}
    return {ASSET_PARTITION_RANGE_START_TAG: first.isoformat(), ASSET_PARTITION_RANGE_END_TAG: last.isoformat()}


def delivered_name(job: AssetJob) -> str:
    """Name of the sensor that starts a job once all its sources have delivered."""
    return f"{job.name}_delivered"


def late_sources(pipeline: Scheduled, settings: Settings, first: date, last: date) -> str:
    """The sources that are late for the first such as-of date, as "orders has not delivered 2026-01-02"; else ""."""
    from forecache.lake.sources.state import awaited

    for night in pipeline.schedule.dates(first, last):
        late = awaited(settings, pipeline.all_sources, night)
        if late:
            return f"{', '.join(late)} has not delivered {night}"
    return ""


def not_yet(job: AssetJob, late: str) -> str:
    return f"Not yet: {late}. The sensor {delivered_name(job)} runs it once that is there."


def newest_night_schedule(
    pipeline: Scheduled, job: AssetJob, *, description: str, hours_later: int = 0
) -> dg.ScheduleDefinition:
    """A schedule for the due as-of dates of a pipeline; after the end of its data, for the last one.

    It skips if a source with missing="wait" has not delivered one of the dates.

    Args:
        hours_later: Hours between the start of the pipeline's own schedule and the start of this one.
    """
    schedule = pipeline.schedule
    runs = schedule.runs
    waits = any(source.missing == "wait" for source in pipeline.all_sources)
    # A later hour past midnight cannot be written for the days of the expression: then it starts every day.
    cron = runs.later(hours_later) or f"{runs.minute} {(runs.hour + hours_later) % 24} * * *"

    @dg.schedule(
        job=job,
        name=f"{job.name}_schedule",
        cron_schedule=cron,
        execution_timezone=schedule.time_zone,
        description=description,
        required_resource_keys={"settings"} if waits else None,
    )
    def newest(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        moment = context.scheduled_execution_time
        first, last = due_nights(pipeline, schedule.latest_run(moment) if hours_later else moment)
        if last < pipeline.start:
            return dg.SkipReason(f"Pipeline {pipeline.name} starts on {pipeline.start}.")
        try:
            late = late_sources(pipeline, context.resources.settings.load(), first, last) if waits else ""
        except ForecacheError as error:
            # A failed tick is not repeated; a run reports the error, and is retried.
            context.log.warning(str(error))
            late = ""
        if late:
            return dg.SkipReason(not_yet(job, late))
        return dg.RunRequest(tags=night_tags(first, last))

    return newest
