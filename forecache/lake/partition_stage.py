"""Stages that write the stale partitions of a table, each as-of date in a partition of its own."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from forecache.base.results import Progress
from forecache.base.settings import Settings
from forecache.kit.delta.files import DataFile
from forecache.kit.delta.log import active_files, group_by_partition
from forecache.kit.delta.partitions import TableSnapshot, find_committed_partitions
from forecache.kit.delta.tables import commit_partitions, open_table
from forecache.lake.ledger import StageRecord
from forecache.lake.stage import NightsDone, Stage, StageOutcome, format_nights

if TYPE_CHECKING:
    from deltalake import Schema


def write_stale_partitions(
    stage: Stage,
    table: str,
    inputs: Mapping[date, str],
    write: "Callable[[Sequence[date]], tuple[Schema, Sequence[DataFile]]]",
    *,
    column: str,
    seen: TableSnapshot,
    at_once: int,
    rebuild: bool,
    progress: Progress,
    about: str,
    details: Mapping[str, Any] | None = None,
) -> tuple[dict[date, StageRecord], list[date]]:
    """Write and commit the partitions whose inputs differ from those of their last record; see `Stage.run_nights`.

    Args:
        write: Writes the files of some dates, and returns the columns and the files.
        column: The partition column (date).
        seen: The table as it was before the inputs were read, so that newer rows of another run stay.
        about: Subject of progress messages.
        details: Of the records of partitions that this run writes.
    """
    settings = stage.settings

    def describe(versions: Mapping[date, int], details: Mapping[str, Any] | None = None) -> NightsDone:
        rows = partition_rows(settings, table, list(versions), column=column) if versions else {}
        return {day: StageOutcome(rows[day], details or {}, table, version) for day, version in versions.items()}

    def build(some: Sequence[date]) -> NightsDone:
        done = commit_partitions(
            write(some),
            settings,
            table,
            column=column,
            values=some,
            seen=seen,
            inputs={day: inputs[day] for day in some},
            run_id=stage.run_id,
        )
        return describe(done.versions, details)

    def find(stale: Mapping[date, str]) -> NightsDone:
        written = find_committed_partitions(settings, table, column=column, inputs=stale)
        return describe({day: writer.version for day, writer in written.items()})

    return stage.run_nights(
        inputs,
        build,
        at_once=at_once,
        rebuild=rebuild,
        find=find,
        progress=lambda some, share: progress(f"{about} for {format_nights(some)}", share),
    )


def partition_rows(settings: Settings, table: str, days: Sequence[date], *, column: str) -> dict[date, int]:
    """Rows of each date's partition, from the log's statistics; 0 for a missing one."""
    files = group_by_partition(active_files(open_table(settings, table)), column)
    return {day: sum(file.rows for file in files.get(day.isoformat(), ())) for day in days}
