"""Merging of a table's small files into larger ones, in one commit beside other writers: one mechanism, many policies.

delta-rs's `optimize.compact` is not used. It reads files in the order of the log, so that rows of a stream's table lose
their order by position, and it commits by itself, without the mark by which a lost answer is recognized.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import pyarrow as pa

from forecache.base.errors import DamagedError
from forecache.base.settings import Settings
from forecache.kit.delta.commit import Change, TableState, Target, commit
from forecache.kit.delta.files import BATCH_ROWS, DataFile, new_path, place_of, read_file_rows, retry_write, write_file
from forecache.kit.delta.writers import new_folder

SMALL_BYTES, MERGED_BYTES = 32 << 20, 128 << 20


class MergeStopError(Exception):
    """A merge was given up because `stop` was set."""


@dataclass(frozen=True)
class MergePolicy:
    """The files of a partition that are merged, and the way in which their rows are written."""

    small_bytes: float = SMALL_BYTES
    small_rows: float = math.inf  # files below both limits are merged
    merged_bytes: float = MERGED_BYTES  # a group with this size is complete
    least: int = 2  # fewer files are left as they are
    growth: int = 0  # see `files_of_similar_size`; 0: files of any size
    sorted_by: tuple[str, ...] = ()  # columns, with all rows in memory; (): rows stay in the order of the files
    batch_rows: int = BATCH_ROWS
    parquet: Mapping[str, Any] = field(default_factory=dict)  # options of `write_file`

    def choose_groups(self, files: Sequence[DataFile]) -> list[list[DataFile]]:
        """Return the groups of files of one partition that are each to be merged into one, in the order of `files`."""
        small = [file for file in files if file.size_bytes < self.small_bytes and file.rows < self.small_rows]
        if self.growth:
            small = files_of_similar_size(small, growth=self.growth)
        if len(small) < self.least:
            return []
        groups, size = [list[DataFile]()], 0
        for file in small:
            if size >= self.merged_bytes:
                groups.append([])
                size = 0
            groups[-1].append(file)
            size += file.size_bytes
        return [group for group in groups if len(group) > 1]


PolicyOf = Callable[[Mapping[str, str | None]], MergePolicy | None]
"""Returns the policy of a partition, by the values of its columns; None: its files stay."""


def files_of_similar_size(files: Sequence[DataFile], *, growth: int) -> list[DataFile]:
    """As many as possible of the smallest files, none with more than 1/`growth` of their total size.

    So each merge puts a row into a file that is at least `growth` times as large, and a row is rewritten a few times
    only (the logarithm of the largest file to this base), however often rows are added.
    """
    smallest = sorted(files, key=lambda file: (file.size_bytes, file.path))
    total, count = 0, 0
    for number, file in enumerate(smallest, 1):
        total += file.size_bytes
        if file.size_bytes * growth <= total:
            count = number
    return smallest[:count]


def choose_groups(files: Sequence[DataFile], policy_of: PolicyOf) -> list[tuple[MergePolicy, list[DataFile]]]:
    """Choose the groups of a table's files that are each to be merged into one, with the policy of each."""
    partitions: dict[tuple[tuple[str, str | None], ...], list[DataFile]] = {}
    for file in files:
        partitions.setdefault(tuple(file.partition.items()), []).append(file)
    policies = ((policy_of(some[0].partition), some) for some in partitions.values())
    return [(policy, group) for policy, some in policies if policy for group in policy.choose_groups(some)]


def merge_small_files(
    target: Target,
    policy_of: PolicyOf,
    *,
    sort_files: Callable[[TableState], Sequence[DataFile]] = lambda state: state.files,
    stop: Event | None = None,
) -> int:
    """Merge small files in one commit, beside other writers; returns how many were merged.

    After a kill or stop at any moment, the table has the same rows. Rows that are committed meanwhile are unaffected.
    `sort_files` returns the files of the table in the order of their rows.

    Raises:
        MergeStopError: `stop` was set before all was merged.
        DamagedError: The row count of a file differs from the log; the table is unchanged.
    """
    groups: list[tuple[MergePolicy, list[DataFile]]] = []
    merged: list[DataFile] = []

    def decide(state: TableState) -> Change:
        nonlocal groups, merged
        there = {file.path for file in state.files}
        # The result of an earlier attempt is valid while its files are in the table, as files are immutable. Choosing
        # again would include files committed meanwhile, and rewrite all rows at each attempt.
        if not groups or any(file.path not in there for _, group in groups for file in group):
            groups = choose_groups(sort_files(state), policy_of)
            merged = [
                write_merged(target.settings, target.name, state, group, policy, stop=stop) for policy, group in groups
            ]
        return Change(merged, [file for _, group in groups for file in group], rearranged=True)

    commit(target, decide)
    return sum(len(group) for _, group in groups)


def write_merged(
    settings: Settings,
    name: str,
    state: TableState,
    files: Sequence[DataFile],
    policy: MergePolicy,
    *,
    stop: Event | None = None,
) -> DataFile:
    """Write the rows of files of one partition as one uncommitted file; raises as `merge_small_files`."""
    assert state.delta is not None
    partition = files[0].partition
    schema = pa.schema([column for column in pa.schema(state.delta.schema()) if column.name not in partition])
    filesystem, path = place_of(settings, name).open(), new_path(new_folder(), partition)

    def read() -> Iterator[pa.Table]:
        for batch in read_file_rows(filesystem, name, files, schema, batch_rows=policy.batch_rows):
            if stop is not None and stop.is_set():
                raise MergeStopError
            yield pa.Table.from_batches([batch])

    def write() -> DataFile:
        rows: Iterable[pa.Table] = read()
        if policy.sorted_by:
            order = [(column, "ascending") for column in policy.sorted_by]
            rows = [pa.concat_tables([schema.empty_table(), *rows]).sort_by(order)]
        return write_file(filesystem, path, schema, rows, **policy.parquet)

    written = retry_write(write, is_remote=settings.lake_is_remote)
    check_row_count(name, files, written.rows)
    return written


def check_row_count(name: str, files: Sequence[DataFile], rows: int) -> None:
    """Raise DamagedError if files have another number of rows than the log says, where it says one."""
    known = [file.rows for file in files]
    if min(known) >= 0 and rows != sum(known):
        raise DamagedError(
            f"{len(files)} files of the table {name!r} have {rows:,} rows where its log says {sum(known):,}.",
            remedy="`forecache doctor --deep` names the damaged file.",
        )
