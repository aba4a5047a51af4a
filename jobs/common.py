"""What the jobs share: how a run says which as-of dates it is about."""

from datetime import date

import dagster as dg

from forecache.pipeline import Served
from resources.dagster_internals import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)
from resources.dagster_internals import UnresolvedAssetJobDefinition as AssetJob

__all__ = ["AssetJob", "newest_night_schedule", "night_tags"]


def night_tags(first: date, last: date) -> dict[str, str]:
    """Tags of a run for one night, or for a range as one run."""
    if first == last:
        return {PARTITION_NAME_TAG: first.isoformat()}
    return {ASSET_PARTITION_RANGE_START_TAG: first.isoformat(), ASSET_PARTITION_RANGE_END_TAG: last.isoformat()}


def newest_night_schedule(
    pipeline: Served, job: AssetJob, *, description: str, hours_later: int = 0
) -> dg.ScheduleDefinition:
    """For the as-of dates that a run of the pipeline's schedule is about; once its data have ended, their last one.

    Args:
        hours_later: How long after the start of that run.
    """
    schedule = pipeline.schedule
    runs = schedule.runs
    # Where that is after midnight of dates that the expression names: every day, also without a run before it.
    cron = runs.later(hours_later) or f"{runs.minute} {(runs.hour + hours_later) % 24} * * *"

    @dg.schedule(
        job=job,
        name=f"{job.name}_schedule",
        cron_schedule=cron,
        execution_timezone=schedule.time_zone,
        description=description,
    )
    def newest(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        moment = context.scheduled_execution_time
        first, last = schedule.due(schedule.latest_run(moment) if hours_later else moment)
        first, last = (min(day, pipeline.end or day) for day in (max(first, pipeline.start), last))
        if last < pipeline.start:
            return dg.SkipReason(f"Pipeline {pipeline.name} starts on {pipeline.start}.")
        return dg.RunRequest(tags=night_tags(first, last))

    return newest
