"""The job and the schedule of the asset `cost`."""

import dagster as dg

from jobs.common import AssetJob

COST_CRON = "0 7 * * *"


def build_cost_job(asset: dg.AssetsDefinition) -> AssetJob:
    return dg.define_asset_job(
        "cost_report", selection=dg.AssetSelection.assets(asset), executor_def=dg.in_process_executor,
        description="What stages, training, storage and replicas cost a day, as means of the last week.",
    )  # fmt: skip


def build_cost_schedule(job: AssetJob) -> dg.ScheduleDefinition:
    """Every day at 07:00 UTC, after the nightly runs."""
    return dg.ScheduleDefinition(
        name=f"{job.name}_schedule", job=job, cron_schedule=COST_CRON, execution_timezone="UTC",
        description="Every day at 07:00 UTC: what everything cost in the last week.",
    )  # fmt: skip
