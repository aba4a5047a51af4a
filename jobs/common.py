"""What the jobs share: how a run says which nights it is about."""

from datetime import date, timezone

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


def newest_night_schedule(pipeline: Served, job: AssetJob, *, cron: str, description: str) -> dg.ScheduleDefinition:
    """Each day, for the night that has just ended; for a pipeline whose data have ended, their last night."""

    @dg.schedule(
        job=job, name=f"{job.name}_schedule", cron_schedule=cron, execution_timezone="UTC", description=description
    )
    def newest(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        from forecache.lake.features import last_night

        night = last_night(pipeline, context.scheduled_execution_time.astimezone(timezone.utc).date())
        if night < pipeline.start:
            return dg.SkipReason(f"Pipeline {pipeline.name} starts on {pipeline.start}.")
        return dg.RunRequest(tags=night_tags(night, night))

    return newest
