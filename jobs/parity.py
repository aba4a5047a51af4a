"""The nightly comparison of logged answers with what they are when computed again."""

import dagster as dg

from assets.parity import parity_name
from forecache.pipeline import Realtime
from jobs.common import AssetJob


def build_parity_job(realtime: Realtime) -> AssetJob:
    """The comparison of logged answers; a job of its own, so that publishing does not wait for it."""
    return dg.define_asset_job(
        f"{parity_name(realtime)}_job",
        selection=dg.AssetSelection.assets(parity_name(realtime)),
        description=f"Compute yesterday's logged answers of {realtime.name} again, and compare every bit.",
        executor_def=dg.in_process_executor,
    )


def build_parity_schedule(realtime: Realtime, job: AssetJob) -> dg.ScheduleDefinition:
    """Half an hour after a day of the log has ended, which is at midnight UTC."""
    return dg.ScheduleDefinition(
        name=f"{job.name}_schedule",
        job=job,
        cron_schedule="30 0 * * *",
        execution_timezone="UTC",
        description=f"Half an hour after midnight UTC: parity of yesterday's answers of {realtime.name}.",
    )
