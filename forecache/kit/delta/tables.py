"""Delta tables by name, or by URI if others write them: list, open, read, replace partitions or rows, append.

Every table stays readable by Spark and by delta-rs: no deletion vectors, no column mapping.
"""

import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from forecache.base.errors import InputError, NotFoundError, UnavailableError
from forecache.base.folders import LocalFolder
from forecache.base.settings import Settings
from forecache.base.steps import begin_work
from forecache.base.table_names import NAME
from forecache.kit.delta.commit import Change, TableState, Target, commit
from forecache.kit.delta.files import DataFile, Place, list_entries
from forecache.kit.delta.log import active_files, open_if_exists
from forecache.kit.delta.partitions import ReplaceResult, TableSnapshot, replace_partitions
from forecache.kit.delta.writers import RowRemover, cast_to_delta_types, write_rows
from forecache.kit.installation import open_lake
from forecache.kit.spark.session import spark_path

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable, Schema
    from pyspark.sql import DataFrame, SparkSession


def table_exists(settings: Settings, name: str) -> bool:
    from deltalake import DeltaTable

    return DeltaTable.is_deltatable(settings.table_uri(name), storage_options=settings.storage_options)


def open_table(settings: Settings, name: str, *, version: int | None = None) -> "DeltaTable":
    """Open a table through delta-rs; NotFoundError if there is none, or not that version, DamagedError for its log."""
    from deltalake.exceptions import DeltaError

    try:
        delta = open_if_exists(settings, name, version=version)
    except DeltaError as error:
        if version is None:
            raise
        raise NotFoundError(
            f"The table {name!r} has no version {version} any more: {error}.",
            remedy="`forecache tables` shows the newest version.",
        ) from None
    if delta is None:
        raise NotFoundError(f"The lake has no table {name!r}.", remedy="`forecache tables` lists those there are.")
    return delta


def table_version(settings: Settings, name: str) -> int:
    """The newest Delta version of a table; NotFoundError if there is no such table."""
    return open_table(settings, name).version()


def read_table(spark: "SparkSession", settings: Settings, name: str, *, version: int | None = None) -> "DataFrame":
    """Read a table with Spark, at its newest or the given version; NotFoundError if there is no such table."""
    open_table(settings, name, version=version)
    reader = spark.read.format("delta")
    if version is not None:
        reader = reader.option("versionAsOf", version)
    return reader.load(spark_path(settings.table_uri(name)))


def commit_partitions(
    written: "tuple[Schema, Sequence[DataFile]]",
    settings: Settings,
    name: str,
    *,
    column: str,
    values: Sequence[date],
    seen: TableSnapshot,
    inputs: Mapping[date, str] | None = None,
    run_id: str = "",
) -> ReplaceResult:
    """Replace the partitions `column IN values` of a table with a change data feed by written files with their columns.

    Columns that are new are added to the table; raises as `replace_partitions`, whose further arguments these are, and
    InputError for files of another partition.
    """
    schema, files = written
    wanted = {value.isoformat() for value in values}
    other = [file.partition[column] for file in files if file.partition[column] not in wanted]
    if other:
        raise InputError(
            f"The rows to be written to the table {name!r} have {column} {other[0]}, which is not among those to be "
            f"replaced: {', '.join(sorted(wanted))}.",
            remedy="Leave these rows out.",
        )
    target = Target(settings, name, schema, (column,), change_feed=True)
    note = {"run_id": run_id}
    return replace_partitions(target, files, column=column, values=values, seen=seen, inputs=inputs, note=note)


def replace_rows(
    written: "tuple[Schema, Sequence[DataFile]] | None",
    settings: Settings,
    name: str,
    *,
    column: str,
    values: Collection[str],
    partition_by: str | None = None,
    within: Collection[date] | None = None,
    require: Callable[[TableState], None] | None = None,
    run_id: str = "",
) -> int:
    """Replace the rows of a table with `column IN values` by those of written files, in one commit.

    Columns that are new are added to the table. Files that have such rows are rewritten without them. Returns the
    Delta version.

    Args:
        written: The columns of the new rows, and their files; None for none, if the table exists.
        partition_by: Partition column (date) of the table.
        within: The only partitions that can have such rows; None: any can.
        require: Called at each attempt with the table at its newest version; it raises to stop the commit.
    """
    schema, files = written or (open_table(settings, name).schema(), list[DataFile]())
    rest = RowRemover(settings, name, column, frozenset(values))
    days = None if within is None else {day.isoformat() for day in within}

    def decide(state: TableState) -> Change:
        if require is not None:
            require(state)
        some = [file for file in state.files if days is None or file.partition[str(partition_by)] in days]
        replaced, kept = rest.rewrite_files(state, some)
        return Change([*files, *kept], replaced)

    return commit(
        Target(settings, name, schema, (partition_by,) if partition_by else ()), decide, note={"run_id": run_id}
    )


def replace_table(
    settings: Settings, name: str, schema: "Schema", files: Sequence[DataFile], *, run_id: str = ""
) -> int:
    """Replace the files and columns of a table by those of `write_frame(..., fit=False)`; older versions stay."""
    target = Target(settings, name, schema, fit=False)
    return commit(target, lambda state: Change(files, state.files, schema), note={"run_id": run_id})


def append_rows(settings: Settings, name: str, rows: "pa.Table", *, partition_by: Sequence[str] = ()) -> int:
    """Append Arrow rows in one commit, creating the table if needed; returns the Delta version.

    InputError if they have columns that the table lacks, or of another type; nothing was written.
    """
    from deltalake import Schema

    rows = cast_to_delta_types(rows)
    schema = Schema.from_arrow(rows.schema)
    target = Target(settings, name, schema, tuple(partition_by), add_columns=False)
    written: list[DataFile] | None = None

    def decide(state: TableState) -> Change:
        nonlocal written
        if written is None:  # only once the columns are known to fit; the next attempt reuses the files
            written = write_rows(rows, settings, name, partition_by=partition_by)
        return Change(written)

    return commit(target, decide)


def remove_table(settings: Settings, name: str) -> None:
    """Remove a table of the lake, its log first, so that nobody reads a part of it; none is fine."""
    begin_work(f"removing the table {name}")
    folder = open_lake(settings, below=name)
    files = folder.names()
    log = [file for file in files if file.startswith("_delta_log/")]
    folder.delete(log)
    folder.delete([file for file in files if file not in log])
    if isinstance(folder, LocalFolder):
        shutil.rmtree(folder.root, ignore_errors=True)


def resolve_place(settings: Settings, uri: str) -> Place:
    """The place of an existing table; a relative folder is relative to the process's working folder."""
    if "://" not in uri:
        return Place(os.path.abspath(uri))
    if uri.startswith("file://"):
        return Place(uri.removeprefix("file://"))
    return Place(uri.replace("s3a://", "s3://", 1), settings.storage_options)


def open_existing(settings: Settings, table: str, *, what: str) -> "DeltaTable":
    """Open a table of the lake by its name, or any Delta table by its folder or URI, at its newest version.

    NotFoundError if there is none, UnavailableError if it does not open; they name its role, `what`.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError

    place = resolve_place(settings, settings.table_uri(table) if NAME.fullmatch(table) else table)
    try:
        return DeltaTable(place.uri, storage_options=dict(place.options) or None)
    except TableNotFoundError:
        raise NotFoundError(
            f"{what} {table!r} cannot be read: there is no Delta table in {place.uri}.",
            remedy="Give the URI of a Delta table, or the name of a table in the lake.",
        ) from None
    except (DeltaError, OSError) as error:
        raise UnavailableError(
            f"{what} {table!r} cannot be read: {str(error).splitlines()[0]}.",
            remedy="Check its URI and FORECACHE_STORAGE_OPTIONS.",
        ) from error


@dataclass(frozen=True)
class TableInfo:
    """A table as its log describes it; `rows` is -1 if the log has no statistics."""

    name: str
    version: int
    rows: int
    files: int
    size_bytes: int


def list_tables(settings: Settings) -> list[TableInfo]:
    """Every table of the lake, by name."""
    found = []
    for name in table_names(settings):
        table = open_table(settings, name)
        files = active_files(table)
        rows = -1 if any(file.rows < 0 for file in files) else sum(file.rows for file in files)
        found.append(TableInfo(name, table.version(), rows, len(files), sum(file.size_bytes for file in files)))
    return found


def table_names(settings: Settings) -> list[str]:
    """Names of the folders of the lake that are Delta tables."""
    from pyarrow import fs

    if settings.lake_is_remote:
        entries = list_entries(Place(settings.lake_uri, settings.storage_options).open(), "")
        names = [entry.base_name for entry in entries if entry.type == fs.FileType.Directory]
    else:
        root = Path(settings.lake_uri)
        names = [entry.name for entry in root.iterdir() if entry.is_dir()] if root.is_dir() else []
    return sorted(name for name in names if table_exists(settings, name))
