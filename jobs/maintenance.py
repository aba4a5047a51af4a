"""Weekly jobs that keep lake and stores in order: maintenance of tables, and verification of the stores' bytes."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.stage import Step, explained
from resources.settings import SettingsResource

MAINTENANCE_CRON = "0 1 * * 0"


def build_maintenance_job() -> dg.JobDefinition:
    """One step that merges small files and removes unused ones, with counts for each table."""

    @dg.op(name="maintain_tables", description="Merge small files; remove those that no version needs.")
    @explained
    def maintain_tables(context: dg.OpExecutionContext, settings: SettingsResource) -> Iterator[Any]:
        from forecache.operations.maintain import maintain

        step = Step(context, settings.load())
        done = maintain(step.settings, progress=step.progress)
        columns = ("table", "merged", "removed", "files_before", "files_after", "bytes_before", "bytes_after")
        records = [dg.TableRecord({name: getattr(item, name) for name in columns}) for item in done]
        freed = sum(item.bytes_before - item.bytes_after for item in done)
        removed = sum(item.removed for item in done)
        found = {"freed_bytes": freed, "removed_files": removed}
        if records:  # Dagster takes no table without rows
            found["tables"] = dg.TableMetadataValue(records, dg.TableSchema([dg.TableColumn(name) for name in columns]))
        yield dg.Output(None, metadata=found)

    @dg.job(
        name="maintain_lake",
        description="Merge the lake's small files and remove what no version, model or run names any more.",
        executor_def=dg.in_process_executor,
    )
    def maintenance() -> None:
        maintain_tables()

    return maintenance


def build_maintenance_schedule(job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """Sundays at 01:00 UTC, before the nightly runs."""
    return dg.ScheduleDefinition(
        name=f"{job.name}_schedule", job=job, cron_schedule=MAINTENANCE_CRON, execution_timezone="UTC",
        description="Sundays at 01:00 UTC: the lake's small files are merged, what nothing needs is removed.",
    )  # fmt: skip
