"""Weekly jobs that keep lake and stores in order: maintenance of tables, and verification of the stores' bytes."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.stage import RunStep, explain_errors
from forecache.base.plugins import load_hook
from jobs.schedules import build_cron_schedule, build_op_job
from resources.settings_and_spark import SettingsResource

MAINTENANCE_CRON = "0 1 * * 0"


def build_maintenance_job() -> dg.JobDefinition:
    """One step that merges small files and removes unused ones, with counts for each table."""

    @dg.op(name="maintain_tables", description="Merge small files; remove those that no version needs.")
    @explain_errors
    def maintain_tables(context: dg.OpExecutionContext, settings: SettingsResource) -> Iterator[Any]:

        step = RunStep(context, settings.load())
        done = load_hook("maintenance", "maintain_lake")(step.settings, progress=step.progress)
        columns = ("table", "merged", "removed", "files_before", "files_after", "bytes_before", "bytes_after")
        records = [dg.TableRecord({name: getattr(item, name) for name in columns}) for item in done]
        freed = sum(item.bytes_before - item.bytes_after for item in done)
        removed = sum(item.removed for item in done)
        found = {"freed_bytes": freed, "removed_files": removed}
        if records:  # Dagster takes no table without rows
            found["tables"] = dg.TableMetadataValue(records, dg.TableSchema([dg.TableColumn(name) for name in columns]))
        yield dg.Output(None, metadata=found)

    about = "Merge the lake's small files and remove what no version, model or run names any more."
    return build_op_job(maintain_tables, "maintain_lake", about)


def build_maintenance_schedule(job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """Sundays at 01:00 UTC, before the nightly runs."""
    about = "Sundays at 01:00 UTC: the lake's small files are merged, what nothing needs is removed."
    return build_cron_schedule(job, MAINTENANCE_CRON, about)


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
