"""Mailed: one message by SMTP about the published predictions to each user with an address and without an opt-out.

The outcome of each message is in the table `mail_ledger`; addresses and opt-outs are read when messages are sent. A
message that the server did not accept is sent again by the next run.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import dagster as dg

from assets.metadata import details_json, owners_of, stage_metadata
from assets.published import published_name
from assets.raw import ingest_pending_files
from assets.stage import RunStep, explain_errors
from assets.table import source_asset
from forecache.base.plugins import load_hook
from forecache.declare.served import FollowUp
from resources.settings import SettingsResource
from resources.spark import SparkResource


def mailed_name(mailing: FollowUp) -> str:
    return f"mailed_{mailing.name}"


def build_mailed(mailing: FollowUp) -> dg.AssetsDefinition:
    """The messages of a mailing."""

    @dg.asset(
        name=mailed_name(mailing),
        deps=[published_name(mailing.pipeline), *(source_asset(source) for source in mailing.all_sources)],
        description=f"{mailing.description}\n\n{__doc__}",
        group_name="serving",
        kinds={"deltalake", "email"},
        owners=owners_of(mailing),
    )
    @explain_errors
    def send_messages(
        context: dg.AssetExecutionContext, settings: SettingsResource, spark: SparkResource
    ) -> Iterator[Any]:
        step = RunStep(context, settings.load(), spark)
        for source in mailing.all_sources:
            yesterday = datetime.now(timezone.utc).date() - timedelta(days=1)
            ingest_pending_files(step, source, last=min(yesterday, source.end or yesterday))
        result = step.run_stage(load_hook("mail", "mail"), step.settings, mailing)
        yield dg.MaterializeResult(metadata={**stage_metadata(step.settings, result), "details": details_json(result)})

    return send_messages
