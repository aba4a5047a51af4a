"""Verification of the stores' bytes in Dagster, weekly."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.stage import explain_errors
from forecache.base.settings import Settings
from forecache.declare.project import Project
from jobs.schedules import build_cron_schedule, build_op_job
from resources.settings_resource import SettingsResource


def build_definitions(project: Project, settings: Settings) -> dg.Definitions:
    """The job, and its schedule."""
    job = build_verification_job()
    about = "Saturdays at 06:00 UTC: whether the stores' bytes are those that were written."
    return dg.Definitions(jobs=[job], schedules=[build_cron_schedule(job, "0 6 * * 6", about)])


def build_verification_job() -> dg.JobDefinition:
    """One step that reads every byte of the stores, so that damage is found before a version is needed.

    It fails if a version is damaged, and names the damaged files.
    """

    @dg.op(name="verify_stores_on_disk", description="Read every byte of every retained version.")
    @explain_errors
    def verify_stores_on_disk(context: dg.OpExecutionContext, settings: SettingsResource) -> Iterator[Any]:
        from forecache.plugins.store_checks.verify_stores import verify_stores

        found = verify_stores(settings.load())
        yield dg.Output(None, metadata={"read_bytes": sum(item.read_bytes for item in found), "found": len(found)})

    about = "Read every byte of the stores and compare it with what was published."
    return build_op_job(verify_stores_on_disk, "verify_stores", about)
