"""Data files of a lake's table: their location, their statistics from Parquet footers, and their rows in Arrow.

Runs inside Spark's Python workers too: imports neither settings nor, for a lake on a disk, deltalake.
"""

import json
import math
import os
import pickle
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from forecache.base.steps import begin_work, lake_step
from forecache.kit.delta.errors import damaged_file, open_data_file

if TYPE_CHECKING:
    from forecache.base.settings import Settings


RETENTION = timedelta(days=7)
"""Maintenance removes a file that has not been part of its table for so long; for a day of a stream or request log."""
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_FOOTERS_AT_ONCE = 16
_WRITTEN_BYTES = 8 << 20
# Longer bounds of texts are left out: a truncated upper bound would have to be rounded up.
_BOUND_LETTERS = 32
_TRIES, _PAUSE_S = 4, 0.5
_LISTED_AGAIN = 20
_T = TypeVar("_T")


@dataclass(frozen=True)
class Place:
    """Location of a table; `options` are those of the object store, with its secrets."""

    uri: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    def open(self) -> Any:
        """Open a pyarrow file system rooted at the table, local or in an object store."""
        if "://" not in self.uri:
            return pa.fs.SubTreeFileSystem(self.uri, pa.fs.LocalFileSystem())
        from deltalake.fs import DeltaStorageHandler

        return pa.fs.PyFileSystem(DeltaStorageHandler(self.uri, dict(self.options) or None))


@dataclass(frozen=True)
class DataFile:
    """A Parquet file of a table, whether or not the log names it.

    `statistics` has numRecords, minValues, maxValues and nullCount as Delta names them, with Python values.
    """

    path: str  # relative to the table, not URL-encoded
    size_bytes: int
    partition: Mapping[str, str | None]  # values as the Delta log writes them
    statistics: Mapping[str, Any]

    @property
    def rows(self) -> int:
        return int(self.statistics["numRecords"])


def place_of(settings: "Settings", table: str) -> Place:
    """Location of a table; absolute, so that it is valid in every process that sees the same disk."""
    uri = settings.table_uri(table)
    return Place(uri if "://" in uri else os.path.abspath(uri), settings.storage_options)


def list_entries(filesystem: Any, folder: str, *, recursive: bool = False) -> list[Any]:
    """List a folder as pyarrow's FileInfo; empty if there is no such folder."""
    selector = pa.fs.FileSelector(folder, recursive=recursive, allow_not_found=True)
    for _ in range(_LISTED_AGAIN):
        # pyarrow checks whether the folder exists only after listing it failed; it may be created in between.
        with suppress(FileNotFoundError):
            return list(filesystem.get_file_info(selector))
    return list(filesystem.get_file_info(selector))


def list_files(filesystem: Any, folder: str, *, since: datetime | None = None) -> list[DataFile]:
    """List the complete Parquet files with rows below a folder (since a time); folders name their partitions."""
    infos = [
        info
        for info in list_entries(filesystem, folder, recursive=True)
        # Spark's tasks write below `_temporary` until they are done.
        if info.type == pa.fs.FileType.File
        and info.path.endswith(".parquet")
        and "/_temporary/" not in info.path
        and (since is None or info.mtime >= since)
    ]
    found = describe_files(filesystem, [(info.path, info.size) for info in infos])
    return [file for file in found if file is not None and file.rows]


def describe_files(filesystem: Any, files: Iterable[tuple[str, int]]) -> list[DataFile | None]:
    """`describe_file` for files given by path and size in bytes; several footers are read at once."""
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE, thread_name_prefix="forecache-footers") as threads:
        return list(threads.map(lambda file: describe_file(filesystem, *file), files))


def describe_file(filesystem: Any, path: str, size_bytes: int) -> DataFile | None:
    """Read a file's statistics from its Parquet footer; None if it has no readable footer."""
    with filesystem.open_input_file(path) as source:
        try:
            metadata = pq.read_metadata(source)
        except pa.ArrowInvalid:
            return None
    return file_from_footer(path, size_bytes, metadata)


def file_from_footer(path: str, size_bytes: int, metadata: pq.FileMetaData) -> DataFile:
    """The data file for a footer; its folders name its partition values."""
    return DataFile(path, size_bytes, _partition_of(path), _statistics(metadata))


def write_file(
    filesystem: Any,
    path: str,
    schema: pa.Schema,
    rows: Iterable[pa.Table],
    *,
    group_rows: int | None = None,
    compression: str = "snappy",
    **options: Any,
) -> DataFile:
    """Write rows without their partition columns, which the path names, as one file; `options` are ParquetWriter's.

    Each table of `rows` is a row group, or each `group_rows` of their rows.
    """
    begin_work(f"writing {path}")
    if isinstance(filesystem, pa.fs.SubTreeFileSystem):
        filesystem.create_dir(path.rpartition("/")[0], recursive=True)
    with (
        filesystem.open_output_stream(path) as sink,
        pa.BufferedOutputStream(sink, _WRITTEN_BYTES) as buffered,
        pq.ParquetWriter(buffered, schema, compression=compression, store_schema=False, **options) as writer,
    ):
        for some in rows:
            writer.write_table(some, group_rows)
    written = describe_file(filesystem, path, filesystem.get_file_info(path).size)
    assert written is not None, path
    lake_step("file written")
    return written


def pickle_file(file: DataFile) -> pa.RecordBatch:
    """Pickle a file to a row of a column `file`, which Spark returns to the driver."""
    return pa.record_batch({"file": pa.array([pickle.dumps(file)], pa.binary())})


def retry_write(write: Callable[[], _T], *, is_remote: bool) -> _T:
    """Call a function that writes a new file, again if an object store failed it.

    If the answer to the last request of an upload is lost, the client retries and gets an error that there is no such
    upload. The file then exists, but no commit will name it.
    """
    for _ in range(_TRIES - 1 if is_remote else 0):
        try:
            return write()
        except PermissionError:
            raise
        except OSError:
            time.sleep(_PAUSE_S)
    return write()


def statistics_json(statistics: Mapping[str, Any]) -> str:
    """Statistics as JSON for a Delta add action."""
    written = dict(statistics)
    for bound in ("minValues", "maxValues"):
        values = {name: _delta_value(value) for name, value in statistics[bound].items()}
        written[bound] = {name: value for name, value in values.items() if value is not None}
    return json.dumps(written)


def partition_text(value: Any) -> str | None:
    """A partition value as the Delta log writes it."""
    if value is None or isinstance(value, str):
        return value
    return value.isoformat() if isinstance(value, date) else json.dumps(value)


def partition_folder(name: str, value: Any) -> str:
    """The name of a folder that holds the rows of one value of a partition column."""
    text = partition_text(value)
    return f"{quote(name, safe='')}={_NO_VALUE if text is None else quote(text, safe='')}"


def new_path(folder: str, partition: Mapping[str, Any], *, number: int | None = None) -> str:
    """A unique path for a new file of a partition; files with a number are in its order by name."""
    places = [partition_folder(name, value) for name, value in partition.items()]
    ordered = "" if number is None else f"{number:05}-"
    return "/".join([folder, *places, f"part-{ordered}{uuid.uuid4().hex}.snappy.parquet"])


def _partition_of(path: str) -> dict[str, str | None]:
    named = (part.partition("=") for part in path.split("/")[:-1] if "=" in part)
    return {unquote(name): None if value == _NO_VALUE else unquote(value) for name, _, value in named}


def _statistics(metadata: Any) -> dict[str, Any]:
    """Statistics of the top-level columns that have statistics in every row group."""
    low: dict[str, Any] = {}
    high: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    for index in range(metadata.num_columns):
        column = metadata.schema.column(index)
        if column.path != column.name or column.max_repetition_level:
            continue
        chunks = [metadata.row_group(group).column(index).statistics for group in range(metadata.num_row_groups)]
        if any(chunk is None or not chunk.has_null_count for chunk in chunks):
            continue
        nulls[column.name] = sum(chunk.null_count for chunk in chunks)
        known = [chunk for chunk in chunks if chunk.has_min_max]
        if len(known) == len(chunks) and known:
            low[column.name] = min(chunk.min for chunk in known)
            high[column.name] = max(chunk.max for chunk in known)
    return {"numRecords": metadata.num_rows, "minValues": low, "maxValues": high, "nullCount": nulls}


def _delta_value(value: Any) -> Any:
    if isinstance(value, datetime):
        utc = value.astimezone(timezone.utc) if value.tzinfo else value.replace(tzinfo=timezone.utc)
        return utc.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str):
        return value if len(value) <= _BOUND_LETTERS else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None  # JSON knows no infinity
    return value if isinstance(value, (bool, int)) else None


BATCH_ROWS = 1 << 16
_Rows = TypeVar("_Rows", pa.RecordBatch, pa.Table)


def read_file_rows(
    filesystem: Any, table: str, files: Iterable[DataFile], schema: pa.Schema, *, batch_rows: int = BATCH_ROWS
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of files, one after the other, see `fit_columns`; DamagedError if one is missing or damaged."""
    for file in files:
        try:
            yield from read_rows(filesystem, table, file.path, schema, partition=file.partition, batch_rows=batch_rows)
        except FileNotFoundError as error:
            raise damaged_file(file.path, table) from error


def read_rows(
    filesystem: Any,
    table: str,
    path: str,
    schema: pa.Schema,
    *,
    partition: Mapping[str, str | None] | None = None,
    batch_rows: int = BATCH_ROWS,
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file in batches, see `fit_columns`; raises as `open_data_file`."""
    with open_data_file(filesystem, path, table) as source:
        parquet = pq.ParquetFile(source)
        known = [name for name in schema.names if name in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(batch_rows, columns=known, use_threads=False):
            yield fit_columns(batch, schema, partition)


def fit_columns(rows: _Rows, schema: pa.Schema, partition: Mapping[str, str | None] | None = None) -> _Rows:
    """Cast rows to a schema; columns that they lack have the partition's value, or null."""
    arrays = []
    for column in schema:
        value = (partition or {}).get(column.name)
        if column.name in rows.schema.names:
            arrays.append(rows.column(column.name).cast(column.type))
        elif value is not None:
            arrays.append(pa.repeat(pa.scalar(value).cast(column.type), rows.num_rows))
        else:
            arrays.append(pa.nulls(rows.num_rows, column.type))
    return type(rows).from_arrays(arrays, schema=schema)
