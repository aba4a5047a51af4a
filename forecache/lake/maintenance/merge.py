"""Merging a table's small files in one commit."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timezone
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from forecache.errors import DamagedError
from forecache.lake.delta.commit import Change, State, Target, commit
from forecache.lake.delta.files import DataFile, new_path, place_of, write_file
from forecache.lake.delta.read_errors import open_data_file
from forecache.lake.delta.small_tables import SORTED_BY, merge_files
from forecache.lake.delta.stream_tables import HOUR, in_order, is_closed, is_stream_table
from forecache.lake.delta.tables import open_table
from forecache.lake.delta.writers import new_folder
from forecache.lake.turn import own_turn
from forecache.pipeline.names import QUARANTINE, RAW
from forecache.results import no_progress
from forecache.settings import Settings

_MERGED_TABLES = (RAW, QUARANTINE)
_SMALL_BYTES, _MERGED_BYTES = 32 << 20, 128 << 20
_MERGED_ROWS = 1 << 17
_BATCH_ROWS = 1 << 16


def no_ingestion(settings: Settings, name: str) -> AbstractContextManager[None]:
    """Wait for an ingestion of this machine, which would begin anew where the table gets other files."""
    for kind in _MERGED_TABLES:
        if name.startswith(kind):
            return own_turn(settings, RAW + name.removeprefix(kind), "", no_progress)
    return nullcontext()


def merge_groups(name: str, files: Sequence[DataFile]) -> list[list[DataFile]]:
    """Files that are to become one each."""
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
        if file.size_bytes < _SMALL_BYTES:
            of_partition = groups.setdefault(tuple(file.partition.items()), [[]])
            if sum(each.size_bytes for each in of_partition[-1]) > _MERGED_BYTES:
                of_partition.append([])
            of_partition[-1].append(file)
    return [group for of_partition in groups.values() for group in of_partition if len(group) > 1]


def merge(settings: Settings, name: str) -> int:
    """Merge small files in one commit; how many."""
    groups: list[list[DataFile]] = []
    merged: list[DataFile] = []

    def decide(state: State) -> Change:
        nonlocal groups, merged
        there = {file.path for file in state.files}
        # What was merged for an earlier attempt holds while its files are in the table: files never change.
        if not groups or any(file.path not in there for group in groups for file in group):
            files = in_order(state.delta, state.files) if state.delta and is_stream_table(name) else state.files
            groups = merge_groups(name, files)
            merged = [_merged(settings, name, state, group) for group in groups]
        return Change(merged, [file for group in groups for file in group], rearranged=True)

    commit(Target(settings, name, open_table(settings, name).schema()), decide)
    return sum(map(len, groups))


def _merged(settings: Settings, name: str, state: State, files: Sequence[DataFile]) -> DataFile:
    if name in SORTED_BY:
        written = merge_files(settings, name, state, files)
    else:
        assert state.delta is not None
        partition = files[0].partition
        schema = pa.schema([field for field in pa.schema(state.delta.schema()) if field.name not in partition])
        filesystem = place_of(settings, name).open()
        rows = _rows(filesystem, name, files, schema)
        written = write_file(filesystem, new_path(new_folder(), partition), schema, rows)
    known = [file.rows for file in files]
    if min(known) >= 0 and written.rows != sum(known):
        raise DamagedError(
            f"{len(files)} files of the table {name!r} have {written.rows:,} rows where its log says {sum(known):,}.",
            remedy="`forecache doctor --deep` names the damaged file.",
        )
    return written


def _rows(filesystem: Any, name: str, files: Sequence[DataFile], schema: pa.Schema) -> Iterator[pa.Table]:
    for file in files:
        with open_data_file(filesystem, file.path, name) as source:
            for batch in pq.ParquetFile(source).iter_batches(_BATCH_ROWS, use_threads=False):
                names = batch.schema.names
                columns = [
                    batch.column(field.name).cast(field.type)
                    if field.name in names
                    else pa.nulls(batch.num_rows, field.type)
                    for field in schema
                ]
                yield pa.Table.from_arrays(columns, schema=schema)
