"""Merge small files of a request log, and remove days past their retention.

Files removed from the table stay in its folder for a day, as long as its Delta log goes back. Nothing refers to older
versions: trainings copy the rows that they read, and parity and rollouts read the newest version.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from threading import Event
from typing import Any

import pyarrow as pa
import pyarrow.fs

from forecache.base.settings import Settings
from forecache.kit.delta.commit import Change, TableState, Target, commit
from forecache.kit.delta.files import DataFile, place_of
from forecache.kit.delta.log import group_by_partition, open_if_exists
from forecache.kit.delta.stream_tables import KEPT
from forecache.lake.maintenance.compaction import (
    MERGED_BYTES,
    SMALL_BYTES,
    commit_merge,
    files_of_similar_size,
    read_file_rows,
)
from forecache.lake.maintenance.remove import removable_files, remove_files
from forecache.realtime.log.commit.log_rows import write_day
from forecache.realtime.log.record import DAY, table_of

MOST_SMALL, GROWTH = 48, 4
"""While a day goes on, at least so many of its files are merged, if together they are so many times as large as the
largest of them; others are left until the day is over."""
_BATCH_ROWS = 4096


class MergeStopError(Exception):
    """A merge was given up because `stop` was set."""


def merge_small(settings: Settings, name: str, *, today: date, stop: Event | None = None) -> int:
    """Merge small files of each day in one commit; return how many were merged.

    After a kill or stop at any moment, the table has the same rows. Rows that are committed meanwhile are unaffected.

    Raises:
        Stopped: `stop` was set before all was merged.
    """
    delta = open_if_exists(settings, table_of(name))
    if delta is None:
        return 0

    def choose(state: TableState) -> list[list[DataFile]]:
        return [
            group
            for day, files in group_by_partition(state.files, DAY).items()
            for group in _groups_to_merge(day, files, today)
        ]

    return commit_merge(_target(settings, name, delta), choose, partial(_write_merged, settings, name, stop or Event()))


def remove_merged(settings: Settings, name: str) -> int:
    """Delete files that left the table at least a day ago; return how many."""
    if open_if_exists(settings, table_of(name)) is None:
        return 0
    unused = removable_files(settings, table_of(name), (), KEPT)
    remove_files(settings, table_of(name), unused)
    return len(unused)


def remove_old(settings: Settings, name: str, *, before: date) -> int:
    """Remove the days before a date from the table; return the number of rows removed."""
    delta = open_if_exists(settings, table_of(name))
    if delta is None:
        return 0
    gone: list[DataFile] = []

    def decide(state: TableState) -> Change:
        gone[:] = [file for file in state.files if date.fromisoformat(str(file.partition[DAY])) < before]
        return Change((), gone)

    commit(_target(settings, name, delta), decide)
    return sum(file.rows for file in gone)


def first_kept_day(today: date, keep_days: int) -> date:
    """Return the first day whose rows are kept."""
    return today - timedelta(days=keep_days)


def _target(settings: Settings, name: str, delta: Any) -> Target:
    return Target(settings, table_of(name), delta.schema(), (DAY,), keep_log=False)


def _groups_to_merge(day: str, files: Sequence[DataFile], today: date) -> Iterator[list[DataFile]]:
    """Group files to merge: many at once while the day goes on, later also two of about the same size."""
    small = [file for file in files if file.size_bytes < SMALL_BYTES]
    is_over = date.fromisoformat(day) < today
    some = files_of_similar_size(small, least=2 if is_over else MOST_SMALL, growth=2 if is_over else GROWTH)
    group: list[DataFile] = []
    for file in some:
        group.append(file)
        if sum(each.size_bytes for each in group) >= MERGED_BYTES:
            yield group
            group = []
    if len(group) > 1:
        yield group


def _write_merged(settings: Settings, name: str, stop: Event, state: TableState, files: Sequence[DataFile]) -> DataFile:
    assert state.delta is not None
    known = pa.schema(state.delta.schema())
    stored = known.remove(known.get_field_index(DAY))
    rows = _MergedRows(place_of(settings, table_of(name)).open(), table_of(name), files, stored, stop)
    return write_day(settings, name, str(files[0].partition[DAY]), rows, stored)


@dataclass(frozen=True)
class _MergedRows:
    """The rows of some files, read again at each iteration, a few thousand at a time."""

    filesystem: pyarrow.fs.FileSystem
    table: str
    files: Sequence[DataFile]
    stored: pa.Schema
    stop: Event

    def __iter__(self) -> Iterator[pa.Table]:
        for rows in read_file_rows(self.filesystem, self.table, self.files, self.stored, _BATCH_ROWS):
            if self.stop.is_set():
                raise MergeStopError
            yield rows
