"""Verification: a weekly job that reads every byte of the stores: damage is found before a version is needed."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.stage import explained
from resources.settings import SettingsResource

VERIFICATION_CRON = "0 6 * * 6"


def build_verification_job() -> dg.JobDefinition:
    """One step that reads every byte of the stores, so that damage is found before a version is needed.

    It fails if a version is damaged, and names the damaged files.
    """

    @dg.op(name="verify_stores_on_disk", description="Read every byte of every retained version.")
    @explained
    def verify(context: dg.OpExecutionContext, settings: SettingsResource) -> Iterator[Any]:
        from forecache.store.checkup import verify_stores

        found = verify_stores(settings.load())
        yield dg.Output(None, metadata={"read_bytes": sum(item.read_bytes for item in found), "found": len(found)})

    @dg.job(
        name="verify_stores",
        description="Read every byte of the stores and compare it with what was published.",
        executor_def=dg.in_process_executor,
    )
    def verification() -> None:
        verify()

    return verification


def build_verification_schedule(job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """Saturdays at 06:00 UTC."""
    return dg.ScheduleDefinition(
        name=f"{job.name}_schedule", job=job, cron_schedule=VERIFICATION_CRON, execution_timezone="UTC",
        description="Saturdays at 06:00 UTC: whether the stores' bytes are those that were written.",
    )  # fmt: skip
