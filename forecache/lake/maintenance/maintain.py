"""Maintenance of a table: its small files are merged, and files that nothing can ask for any more are removed.

Merged are the four small tables (`SORTED_BY`), raw and quarantined rows, of which a late file adds a small file to an
old day, and the closed hours of streams, which commit a small file a second. Features, predictions and training sets
stay as they were written: each night is one commit of few files, and verdicts, the ledger and published versions name
these files.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from forecache.lake.delta.log import active_files
from forecache.lake.delta.stream_tables import KEPT, has_short_log
from forecache.lake.delta.tables import open_table
from forecache.lake.maintenance.merge import merge, merge_groups, no_ingestion
from forecache.lake.maintenance.remove import Pin, data_files, removable, remove
from forecache.settings import Settings

RETENTION = timedelta(days=7)
"""A file is removed only once it has been out of its table, or was never in it, for this long; if it is a
stream's or a request log's, for a day."""


@dataclass(frozen=True)
class Maintained:
    """What maintenance did to a table, or would do.

    Attributes:
        table_files_before, table_files_after: Files that the newest version consists of.
        files_before, files_after: All data files in the table's folder, with those of older versions.
        bytes_before, bytes_after: Their size.
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
) -> Maintained:
    """Merge a table's small files, and remove each file that is in no version that is newest, pinned or recent.

    Safe at any time and beside any run: killed, it leaves the table as it was or merged.

    Args:
        pins: Versions whose files stay.
        dry_run: Change nothing; `*_after` are then as if all that is removable had been removed.

    Raises:
        DamagedError: A file has other rows than the log says; the table is as it was.
        ConflictError, UnavailableError: See `forecache.lake.delta.commit.commit`.
    """
    if has_short_log(name):
        retention = min(retention, KEPT)
    before, table_before = data_files(settings, name), active_files(open_table(settings, name))
    with no_ingestion(settings, name):
        merged = sum(len(group) for group in merge_groups(name, table_before)) if dry_run else merge(settings, name)
    doomed = removable(settings, name, pins, retention)
    if not dry_run:
        remove(settings, name, doomed)
    gone = {info.path for info in doomed} if dry_run else set[str]()
    after = [info for info in data_files(settings, name) if info.path not in gone]
    return Maintained(
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
