"""The table of a request log over time: small files are merged, and days are removed that are kept no longer.

Files that leave the table so stay in its folder until `forecache maintain` removes them, a week later, unless a version
that a training run has read names them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from threading import Event
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from forecache.lake.delta.commit import Change, State, Target, commit
from forecache.lake.delta.files import DataFile, place_of
from forecache.lake.delta.log import grouped, open_if_exists
from forecache.realtime.log.commit.files import write_day
from forecache.realtime.log.record import DAY, table_of
from forecache.settings import Settings

SMALL_BYTES, MERGED_BYTES = 32 << 20, 128 << 20
MOST_SMALL = 48
"""A day with so many small files has them merged; fewer are left until the day is over."""
_BATCH_ROWS = 4096


class Stopped(Exception):
    """A merge was given up, since it was told to stop."""


def merge_small(settings: Settings, name: str, *, today: date, stop: Event | None = None) -> int:
    """Merge small files of each day in one commit; returns how many were merged.

    Killed or stopped at any moment, the table has the rows as they were. Rows that are committed meanwhile stay as they
    are.

    Raises:
        Stopped: `stop` was set before all was merged.
    """
    delta = open_if_exists(settings, table_of(name))
    if delta is None:
        return 0
    done: dict[tuple[str, ...], DataFile] = {}

    def decide(state: State) -> Change:
        groups = [group for day, files in grouped(state.files, DAY).items() for group in _groups(day, files, today)]
        merged = []
        for group in groups:
            paths = tuple(file.path for file in group)
            # What was merged for an earlier attempt holds: files never change.
            if paths not in done:
                done[paths] = _merged(settings, name, state, group, stop or Event())
            merged.append(done[paths])
        decided[:] = [file for group in groups for file in group]
        return Change(merged, decided, rearranged=True)

    decided: list[DataFile] = []
    commit(_target(settings, name, delta), decide)
    return len(decided)


def remove_old(settings: Settings, name: str, *, before: date) -> int:
    """Take the days before a date out of the table; returns how many rows."""
    delta = open_if_exists(settings, table_of(name))
    if delta is None:
        return 0
    gone: list[DataFile] = []

    def decide(state: State) -> Change:
        gone[:] = [file for file in state.files if date.fromisoformat(str(file.partition[DAY])) < before]
        return Change((), gone)

    commit(_target(settings, name, delta), decide)
    return sum(file.rows for file in gone)


def first_kept(today: date, keep_days: int) -> date:
    """The first day whose rows are kept."""
    return today - timedelta(days=keep_days)


def _target(settings: Settings, name: str, delta: Any) -> Target:
    return Target(settings, table_of(name), delta.schema(), (DAY,), keep_log=False)


def _groups(day: str, files: Sequence[DataFile], today: date) -> Iterator[list[DataFile]]:
    """Files that become one: while the day goes on only many of them, later all that are small."""
    small = sorted((file for file in files if file.size_bytes < SMALL_BYTES), key=lambda file: file.path)
    if len(small) < (MOST_SMALL if date.fromisoformat(day) >= today else 2):
        return
    group: list[DataFile] = []
    for file in small:
        group.append(file)
        if sum(each.size_bytes for each in group) >= MERGED_BYTES:
            yield group
            group = []
    if len(group) > 1:
        yield group


def _merged(settings: Settings, name: str, state: State, files: Sequence[DataFile], stop: Event) -> DataFile:
    assert state.delta is not None
    known = pa.schema(state.delta.schema())
    stored = known.remove(known.get_field_index(DAY))
    rows = _Rows(place_of(settings, table_of(name)).open(), files, stored, stop)
    return write_day(settings, name, str(files[0].partition[DAY]), rows, stored)


@dataclass(frozen=True)
class _Rows:
    """The rows of some files, read anew whenever they are gone through: a few thousand are in memory at a time."""

    filesystem: pyarrow.fs.FileSystem
    files: Sequence[DataFile]
    stored: pa.Schema
    stop: Event

    def __iter__(self) -> Iterator[pa.Table]:
        for file in self.files:
            with self.filesystem.open_input_file(file.path) as source:
                for batch in pq.ParquetFile(source).iter_batches(_BATCH_ROWS, use_threads=False):
                    if self.stop.is_set():
                        raise Stopped
                    rows = pa.Table.from_batches([batch])
                    # A file that is older than a column has it as nulls.
                    yield pa.table(
                        [rows[each.name].cast(each.type) if each.name in rows.column_names
                         else pa.nulls(rows.num_rows, each.type) for each in self.stored],
                        schema=self.stored,
                    )  # fmt: skip
