"""Compaction: a table's small files are merged in one commit; also used for request logs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timezone
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from forecache.base.errors import DamagedError
from forecache.base.results import no_progress
from forecache.base.settings import Settings
from forecache.base.table_names import QUARANTINE, RAW
from forecache.kit.delta.commit import Change, TableState, Target, commit
from forecache.kit.delta.files import DataFile, new_path, place_of, write_file
from forecache.kit.delta.read_errors import open_data_file
from forecache.kit.delta.small_tables import SORTED_BY, merge_files
from forecache.kit.delta.stream_tables import HOUR, is_closed, is_stream_table, sort_by_position
from forecache.kit.delta.tables import open_table
from forecache.kit.delta.writers import new_folder
from forecache.lake.stage import hold_table_lock

_MERGED_TABLES = (RAW, QUARANTINE)
SMALL_BYTES, MERGED_BYTES = 32 << 20, 128 << 20
_MERGED_ROWS = 1 << 17
_BATCH_ROWS = 1 << 16


def hold_ingestion_lock(settings: Settings, name: str) -> AbstractContextManager[None]:
    """Hold the lock of ingestion if it writes this table, since it would start over if the table's files changed."""
    for kind in _MERGED_TABLES:
        if name.startswith(kind):
            return hold_table_lock(settings, RAW + name.removeprefix(kind), "", no_progress)
    return nullcontext()


def merge_groups(name: str, files: Sequence[DataFile]) -> list[list[DataFile]]:
    """Groups of files that are each to be merged into one."""
    if name in SORTED_BY:
        small = [file for file in files if file.rows < _MERGED_ROWS]
        return [small] if len(small) > 1 else []
    if is_stream_table(name):
        now = datetime.now(timezone.utc)
        files = [file for file in files if HOUR not in file.partition or is_closed(file.partition[HOUR], now)]
    elif not name.startswith(_MERGED_TABLES):
        return []
    groups: dict[tuple[tuple[str, str | None], ...], list[list[DataFile]]] = {}
    for file in files:
        if file.size_bytes < SMALL_BYTES:
            of_partition = groups.setdefault(tuple(file.partition.items()), [[]])
            if sum(each.size_bytes for each in of_partition[-1]) > MERGED_BYTES:
                of_partition.append([])
            of_partition[-1].append(file)
    return [group for of_partition in groups.values() for group in of_partition if len(group) > 1]


def merge_small_files(settings: Settings, name: str) -> int:
    """Merge small files in one commit; returns how many were merged."""

    def choose(state: TableState) -> list[list[DataFile]]:
        files = sort_by_position(state.delta, state.files) if state.delta and is_stream_table(name) else state.files
        return merge_groups(name, files)

    target = Target(settings, name, open_table(settings, name).schema())
    return commit_merge(target, choose, partial(_merge_group, settings, name))


def commit_merge(
    target: Target,
    choose: Callable[[TableState], list[list[DataFile]]],
    write: Callable[[TableState, Sequence[DataFile]], DataFile],
) -> int:
    """Merge groups of a table's files in one commit, beside other writers; returns how many files were merged.

    Args:
        choose: Returns the groups of files to merge, for the table at its newest version.
        write: Writes the rows of a group as one file.
    """
    groups: list[list[DataFile]] = []
    merged: list[DataFile] = []

    def decide(state: TableState) -> Change:
        nonlocal groups, merged
        there = {file.path for file in state.files}
        # The result of an earlier attempt is valid while its files are in the table, as files are immutable. Choosing
        # again would include files committed meanwhile, and rewrite all rows at each attempt.
        if not groups or any(file.path not in there for group in groups for file in group):
            groups = choose(state)
            merged = [write(state, group) for group in groups]
        return Change(merged, [file for group in groups for file in group], rearranged=True)

    commit(target, decide)
    return sum(map(len, groups))


def files_of_similar_size(files: Sequence[DataFile], *, least: int, growth: int) -> list[DataFile]:
    """As many as possible of the smallest files, none with more than 1/`growth` of their total size.

    So each merge puts a row into a file that is at least `growth` times as large, and a row is rewritten a few times
    only (the logarithm of the largest file to this base), however often rows are added.

    Args:
        least: Return [] if they are fewer.
    """
    smallest = sorted(files, key=lambda file: (file.size_bytes, file.path))
    total, count = 0, 0
    for number, file in enumerate(smallest, 1):
        total += file.size_bytes
        if file.size_bytes * growth <= total:
            count = number
    return smallest[:count] if count >= least else []


def _merge_group(settings: Settings, name: str, state: TableState, files: Sequence[DataFile]) -> DataFile:
    if name in SORTED_BY:
        written = merge_files(settings, name, state, files)
    else:
        assert state.delta is not None
        partition = files[0].partition
        schema = pa.schema([field for field in pa.schema(state.delta.schema()) if field.name not in partition])
        filesystem = place_of(settings, name).open()
        rows = read_file_rows(filesystem, name, files, schema)
        written = write_file(filesystem, new_path(new_folder(), partition), schema, rows)
    known = [file.rows for file in files]
    if min(known) >= 0 and written.rows != sum(known):
        raise DamagedError(
            f"{len(files)} files of the table {name!r} have {written.rows:,} rows where its log says {sum(known):,}.",
            remedy="`forecache doctor --deep` names the damaged file.",
        )
    return written


def read_file_rows(
    filesystem: Any, name: str, files: Sequence[DataFile], schema: pa.Schema, batch_rows: int = _BATCH_ROWS
) -> Iterator[pa.Table]:
    """Read the rows of files of a table; null in columns that a file lacks."""
    for file in files:
        with open_data_file(filesystem, file.path, name) as source:
            for batch in pq.ParquetFile(source).iter_batches(batch_rows, use_threads=False):
                names = batch.schema.names
                columns = [
                    batch.column(field.name).cast(field.type)
                    if field.name in names
                    else pa.nulls(batch.num_rows, field.type)
                    for field in schema
                ]
                yield pa.Table.from_arrays(columns, schema=schema)
