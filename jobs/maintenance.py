"""The weekly verification of the bytes of the stores."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.stage import explain_errors
from forecache.base.plugins import load_hook
from jobs.schedules import build_cron_schedule, build_op_job
from resources.settings_and_spark import SettingsResource

VERIFICATION_CRON = "0 6 * * 6"


def build_verification_job() -> dg.JobDefinition:
    """One step that reads every byte of the stores, so that damage is found before a version is needed.

    It fails if a version is damaged, and names the damaged files.
    """

    @dg.op(name="verify_stores_on_disk", description="Read every byte of every retained version.")
    @explain_errors
    def verify_stores_on_disk(context: dg.OpExecutionContext, settings: SettingsResource) -> Iterator[Any]:
        found = load_hook("store_checks", "verify_stores")(settings.load())
        yield dg.Output(None, metadata={"read_bytes": sum(item.read_bytes for item in found), "found": len(found)})

    about = "Read every byte of the stores and compare it with what was published."
    return build_op_job(verify_stores_on_disk, "verify_stores", about)


def build_verification_schedule(job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """Saturdays at 06:00 UTC."""
    about = "Saturdays at 06:00 UTC: whether the stores' bytes are those that were written."
    return build_cron_schedule(job, VERIFICATION_CRON, about)
