"""Mailed: one message by SMTP about the published predictions to each user with an address and without an opt-out.

The outcome of each message is in the table `mail_ledger`; addresses and opt-outs are read when messages are sent. A
message that the server did not accept is sent again by the next run.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import dagster as dg

from assets.metadata import details_json, place_in_graph, stage_metadata
from assets.published import published_name
from assets.raw import ingest_pending_files
from assets.sources import source_asset
from assets.stage import RunStep, explain_errors
from forecache.base.settings import Settings
from forecache.declare.project import Project
from forecache.plugins.mail.mailing import Mailing
from jobs.schedules import build_asset_job, build_cron_schedule
from resources.settings_resource import SettingsResource

CRON = "0 8 * * *"


def build_definitions(project: Project, settings: Settings) -> dg.Definitions:
    """The asset and the job of each mailing: a job of its own, so that publishing never waits for an SMTP server."""
    return dg.Definitions.merge(*(_define_mailing(mailing) for mailing in project.declared("mailing").values()))


def _define_mailing(mailing: Mailing) -> dg.Definitions:
    about = f"Send the messages of {mailing.name} about what {mailing.pipeline.name} has published."
    job = build_asset_job(f"{mailing.name}_mail", about, [f"mailed_{mailing.name}"])
    about = f"Every day at 08:00 UTC: the messages of {mailing.name}. Users who had theirs get no other."
    return dg.Definitions(assets=[build_mailed(mailing)], jobs=[job], schedules=[build_cron_schedule(job, CRON, about)])


def build_mailed(mailing: Mailing) -> dg.AssetsDefinition:
    """The messages of a mailing."""

    @dg.asset(
        name=f"mailed_{mailing.name}",
        deps=[published_name(mailing.pipeline), *(source_asset(source) for source in mailing.all_sources)],
        description=f"{mailing.description}\n\n{__doc__}",
        **place_in_graph(mailing, stage="serving"),
        kinds={"deltalake", "email"},
    )
    @explain_errors
    def send_messages(context: dg.AssetExecutionContext, settings: SettingsResource) -> Iterator[Any]:
        from forecache.plugins.mail.stage import mail

        step = RunStep(context, settings.load())
        for source in mailing.all_sources:
            yesterday = datetime.now(timezone.utc).date() - timedelta(days=1)
            ingest_pending_files(step, source, last=min(yesterday, source.end or yesterday))
        result = step.run_stage(mail, step.settings, mailing)
        yield dg.MaterializeResult(metadata={**stage_metadata(step.settings, result), "details": details_json(result)})

    return send_messages
