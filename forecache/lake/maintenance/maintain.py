"""Maintenance of a table: small files are merged, and files that no needed version has are removed.

Files are merged in the small tables (`SORTED_BY`), in raw and quarantine tables, where a late landing file adds a small
file to an old day, and in the closed hours of streams, which commit a small file a second. Features, predictions and
training sets stay as they were written: each as-of date is one commit of few files, and verdicts, the ledger and
published versions name these files.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from forecache.base.settings import Settings
from forecache.kit.delta.log import active_files
from forecache.kit.delta.stream_tables import KEPT, has_short_log
from forecache.kit.delta.tables import open_table
from forecache.lake.maintenance.compaction import hold_ingestion_lock, merge_groups, merge_small_files
from forecache.lake.maintenance.remove import Pin, data_files, removable_files, remove_files

RETENTION = timedelta(days=7)
"""A file is removed once it has not been part of its table for this long; for a day if the table is a stream's or a
request log."""


@dataclass(frozen=True)
class MaintenanceResult:
    """Result of the maintenance of a table, or of a dry run.

    Attributes:
        table_files_before, table_files_after: Files that the newest version consists of.
        files_before, files_after: All data files in the table's folder, including those of older versions.
        bytes_before, bytes_after: Size of these.
        merged: Files of the newest version that were merged into larger ones.
        removed: Files that were removed.
    """

    table: str
    table_files_before: int
    table_files_after: int
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int
    merged: int
    removed: int


def maintain_table(
    settings: Settings, name: str, pins: Collection[Pin], *, dry_run: bool = False, retention: timedelta = RETENTION
) -> MaintenanceResult:
    """Merge a table's small files, and remove each file that is in no version that is newest, pinned or recent.

    Safe at any time and concurrently with any run; if it is killed, the table is unchanged or merged.

    Args:
        pins: Versions whose files stay.
        dry_run: Change nothing; `*_after` then leave out the files that would be removed.

    Raises:
        DamagedError: The row count of a file differs from the log; the table is unchanged.
        ConflictError, UnavailableError: See `forecache.kit.delta.commit.commit`.
    """
    if has_short_log(name):
        retention = min(retention, KEPT)
    before, table_before = data_files(settings, name), active_files(open_table(settings, name))
    with hold_ingestion_lock(settings, name):
        merged = (
            sum(len(group) for group in merge_groups(name, table_before))
            if dry_run
            else merge_small_files(settings, name)
        )
    doomed = removable_files(settings, name, pins, retention)
    if not dry_run:
        remove_files(settings, name, doomed)
    gone = {info.path for info in doomed} if dry_run else set[str]()
    after = [info for info in data_files(settings, name) if info.path not in gone]
    return MaintenanceResult(
        name,
        len(table_before),
        len(active_files(open_table(settings, name))),
        len(before),
        len(after),
        sum(info.size for info in before),
        sum(info.size for info in after),
        merged,
        len(doomed),
    )
