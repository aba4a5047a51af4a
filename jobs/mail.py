"""The job of a mailing: messages about what is published, in the morning."""

import dagster as dg

from assets.mailed import mailed_name
from forecache.declare import Mailing
from jobs.schedules import AssetJob

CRON = "0 8 * * *"


def build_mail_job(mailing: Mailing) -> AssetJob:
    """A job of its own, so that what is published never waits for an SMTP server."""
    return dg.define_asset_job(
        f"mail_{mailing.name}",
        selection=dg.AssetSelection.assets(mailed_name(mailing)),
        description=f"Send the messages of {mailing.name} about what {mailing.pipeline.name} has published.",
        executor_def=dg.in_process_executor,
    )


def build_mail_schedule(mailing: Mailing, job: AssetJob) -> dg.ScheduleDefinition:
    """At 08:00 UTC, what is published then."""
    return dg.ScheduleDefinition(
        job=job,
        name=f"{job.name}_schedule",
        cron_schedule=CRON,
        execution_timezone="UTC",
        description=f"Every day at 08:00 UTC: the messages of {mailing.name}. Users who had theirs get no other.",
    )
