"""The job of a mailing: messages about what is published, in the morning."""

import dagster as dg

from assets.mailed import mailed_name
from forecache.declare.served import FollowUp
from jobs.schedules import AssetJob, build_asset_job, build_cron_schedule

CRON = "0 8 * * *"


def build_mail_job(mailing: FollowUp) -> AssetJob:
    """A job of its own, so that what is published never waits for an SMTP server."""
    about = f"Send the messages of {mailing.name} about what {mailing.pipeline.name} has published."
    return build_asset_job(f"mail_{mailing.name}", about, [mailed_name(mailing)])


def build_mail_schedule(mailing: FollowUp, job: AssetJob) -> dg.ScheduleDefinition:
    """At 08:00 UTC, what is published then."""
    about = f"Every day at 08:00 UTC: the messages of {mailing.name}. Users who had theirs get no other."
    return build_cron_schedule(job, CRON, about)
