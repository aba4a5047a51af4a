"""Maintenance of the lake's tables in Dagster: weekly of all, hourly of those of streams."""

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from assets.stage import RunStep, explain_errors
from forecache.base.settings import Settings
from forecache.declare import Stream
from forecache.declare.project import Project
from jobs.schedules import build_cron_schedule, build_op_job
from resources.settings_resource import SettingsResource

STREAM_CRON = "10 * * * *"
"""Ten minutes after each hour, no commit adds files to that hour any more."""


def build_definitions(project: Project, settings: Settings) -> dg.Definitions:
    """The jobs and their schedules; that of streams only if one is declared, and it is on by default."""
    weekly, streams = build_maintenance_job(), list(project.streams.values())
    about = "Sundays at 01:00 UTC: the lake's small files are merged, what nothing needs is removed."
    jobs, schedules = [weekly], [build_cron_schedule(weekly, "0 1 * * 0", about)]
    if streams:
        hourly = build_stream_maintenance_job(streams)
        about = "Ten minutes after each hour: the small files that streams committed in it are merged."
        jobs.append(hourly)
        schedules.append(build_cron_schedule(hourly, STREAM_CRON, about, is_running=True))
    return dg.Definitions(jobs=jobs, schedules=schedules)


def build_maintenance_job() -> dg.JobDefinition:
    """One step that merges small files and removes unused ones, with counts for each table."""

    @dg.op(name="maintain_tables", description="Merge small files; remove those that no version needs.")
    @explain_errors
    def maintain_tables(context: dg.OpExecutionContext, settings: SettingsResource) -> Iterator[Any]:
        from forecache.kit.delta.files import RETENTION
        from forecache.models.training.run_files import remove_old_checkpoints
        from forecache.plugins.maintenance.lake import maintain_lake

        step = RunStep(context, settings.load())
        done = maintain_lake(step.settings, progress=step.progress)
        checkpoints = remove_old_checkpoints(step.settings, older_than=RETENTION)
        columns = ("table", "merged", "removed", "files_before", "files_after", "bytes_before", "bytes_after")
        records = [dg.TableRecord({name: getattr(item, name) for name in columns}) for item in done]
        freed = sum(item.bytes_before - item.bytes_after for item in done)
        removed = sum(item.removed for item in done)
        found = {"freed_bytes": freed, "removed_files": removed, "removed_checkpoint_files": checkpoints}
        if records:  # Dagster takes no table without rows
            found["tables"] = dg.TableMetadataValue(records, dg.TableSchema([dg.TableColumn(name) for name in columns]))
        yield dg.Output(None, metadata=found)

    about = "Merge the lake's small files and remove what no version, model or run names any more."
    return build_op_job(maintain_tables, "maintain_lake", about)


def build_stream_maintenance_job(streams: Sequence[Stream]) -> dg.JobDefinition:
    """One step that merges the files of hours that are over."""
    tables = [name for each in streams for name in (each.table, each.quarantine_table)]

    @dg.op(name="maintain_stream_tables", description="Merge the small files of hours that are over.")
    @explain_errors
    def maintain_stream_tables(context: dg.OpExecutionContext, settings: SettingsResource) -> Iterator[Any]:
        from forecache.kit.delta.tables import table_names
        from forecache.plugins.maintenance.lake import maintain_lake

        step = RunStep(context, settings.load())
        here = set(table_names(step.settings))
        names = [name for name in tables if name in here]
        done = maintain_lake(step.settings, names, progress=step.progress) if names else []
        merged, removed = sum(each.merged for each in done), sum(each.removed for each in done)
        yield dg.Output(None, metadata={"merged_files": merged, "removed_files": removed})

    about = "Merge the small files of the hours of streams that are over, beside the running streams."
    return build_op_job(maintain_stream_tables, "maintain_streams", about)
