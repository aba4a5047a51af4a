"""Delta tables by name: open, read, write a partition so that writing it twice changes nothing.

Every table stays readable by Spark and by delta-rs: no deletion vectors, no column mapping.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from forecache.errors import ConflictError, ForecacheError, InputError, NotFoundError, UnavailableError
from forecache.lake.spark import spark_path
from forecache.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable
    from pyspark.sql import DataFrame, SparkSession

_COMMIT_TRIES = 8
_T = TypeVar("_T")
_CONFLICTS = {
    "CommitFailedError",
    "ConcurrentAppendException",
    "ConcurrentDeleteReadException",
    "ConcurrentDeleteDeleteException",
    "ConcurrentTransactionException",
    "MetadataChangedException",
}


@dataclass(frozen=True)
class TableInfo:
    """A table as the lake's log describes it; `rows` is -1 where the log has no statistics."""

    name: str
    version: int
    rows: int
    files: int
    size_bytes: int


def table_exists(settings: Settings, name: str) -> bool:
    from deltalake import DeltaTable

    return DeltaTable.is_deltatable(settings.table_uri(name), storage_options=settings.storage_options)


def open_table(settings: Settings, name: str, *, version: int | None = None) -> "DeltaTable":
    """Open a table through delta-rs.

    Raises:
        NotFoundError: The table, or that version of it, does not exist.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError
    from deltalake.exceptions import TableNotFoundError as DeltaTableNotFoundError

    try:
        return DeltaTable(settings.table_uri(name), version=version, storage_options=settings.storage_options)
    except DeltaTableNotFoundError:
        raise NotFoundError(
            f"The lake has no table {name!r}.", remedy="`forecache tables` lists those there are."
        ) from None
    except DeltaError as error:
        if version is None:
            raise
        raise NotFoundError(
            f"The table {name!r} has no version {version} any more: {error}.",
            remedy="`forecache tables` shows the newest version.",
        ) from None


def table_version(settings: Settings, name: str) -> int:
    """The newest Delta version of a table; NotFoundError where there is no such table."""
    return open_table(settings, name).version()


def read_table(spark: "SparkSession", settings: Settings, name: str, *, version: int | None = None) -> "DataFrame":
    """Read a table with Spark, at a version where one is given; NotFoundError where there is no such table."""
    open_table(settings, name, version=version)
    reader = spark.read.format("delta")
    if version is not None:
        reader = reader.option("versionAsOf", version)
    return reader.load(spark_path(settings.table_uri(name)))


def write_partitions(
    frame: "DataFrame",
    settings: Settings,
    name: str,
    *,
    column: str,
    values: Sequence[date],
    app: tuple[str, int] | None = None,
) -> int:
    """Replace the partitions `column IN values` of a table with a change data feed by the frame's rows.

    Args:
        frame: Rows with `column` in `values` only; Delta refuses others.
        column: Partition column (date).
        app: (application id, version): a write with an application version already seen is a no-op.

    Returns:
        The Delta version that holds the rows; raises what `replace_rows` does.
    """
    days = ", ".join(f"DATE'{value.isoformat()}'" for value in sorted(values))
    return replace_rows(
        frame, settings, name, where=f"{column} IN ({days})", partition_by=column, change_feed=True, app=app
    )


def replace_rows(
    frame: "DataFrame",
    settings: Settings,
    name: str,
    *,
    where: str | None = None,
    partition_by: str | None = None,
    change_feed: bool = False,
    app: tuple[str, int] | None = None,
) -> int:
    """Replace the rows of a table that meet a predicate by the frame's, in one atomic commit; create it if need be.

    Columns new in the frame are added to the table. Without a predicate the whole table, its columns too, is replaced.

    Returns:
        The Delta version that holds the rows.

    Raises:
        ConflictError: Another writer replaced the same rows meanwhile, several times over.
        UnavailableError: No space is left on the device; the table is as it was.
    """
    writer = frame.write.format("delta").mode("overwrite")
    if where is None:
        writer = writer.option("overwriteSchema", "true")
    elif table_exists(settings, name):
        writer = writer.option("replaceWhere", where).option("mergeSchema", "true")
    elif partition_by:
        writer = writer.partitionBy(partition_by)
    writer = writer.option("delta.enableChangeDataFeed", str(change_feed).lower())
    if app is not None:
        writer = writer.option("txnAppId", app[0]).option("txnVersion", app[1])
    _commit(name, lambda: writer.save(spark_path(settings.table_uri(name))))
    return table_version(settings, name)


def append_rows(
    settings: Settings, name: str, rows: "pa.Table", *, partition_by: Sequence[str] = (), add_columns: bool = False
) -> int:
    """Append Arrow rows through delta-rs, creating the table if need be; returns the Delta version.

    Args:
        add_columns: Add columns that the table does not have yet; its older rows have null there.
    """
    from deltalake import write_deltalake

    _commit(
        name,
        lambda: write_deltalake(
            settings.table_uri(name),
            rows,
            mode="append",
            schema_mode="merge" if add_columns else None,
            partition_by=list(partition_by) or None,
            storage_options=settings.storage_options,
        ),
    )
    return table_version(settings, name)


def list_tables(settings: Settings) -> list[TableInfo]:
    """Every table of the lake, by name. Only a local lake or one listed through Arrow's file systems is walked."""
    return [_info(settings, name) for name in table_names(settings)]


def table_names(settings: Settings) -> list[str]:
    """Names of the folders of the lake that are Delta tables."""
    if "://" not in settings.lake_uri:
        root = Path(settings.lake_uri)
        names = [entry.name for entry in root.iterdir() if entry.is_dir()] if root.is_dir() else []
    else:
        names = list(_object_store_folders(settings))
    return sorted(name for name in names if table_exists(settings, name))


def _object_store_folders(settings: Settings) -> Iterable[str]:
    from deltalake.fs import DeltaStorageHandler
    from pyarrow import fs

    handler = DeltaStorageHandler(settings.lake_uri, settings.storage_options or None)
    selector = fs.FileSelector("", allow_not_found=True, recursive=False)
    for entry in fs.PyFileSystem(handler).get_file_info(selector):
        if entry.type == fs.FileType.Directory:
            yield entry.base_name


def _info(settings: Settings, name: str) -> TableInfo:
    table = open_table(settings, name)
    actions = table.get_add_actions(flatten=True)
    has_statistics = "num_records" in actions.schema.names
    rows = list(actions.column("num_records").to_pylist()) if has_statistics else [None]
    known = [row for row in rows if row is not None]
    num_rows = sum(known) if len(known) == len(rows) else -1
    sizes = list(actions.column("size_bytes").to_pylist())
    return TableInfo(name, table.version(), num_rows, len(sizes), sum(sizes))


def _commit(name: str, write: Callable[[], _T]) -> _T:
    """Run a write that commits once, again where another writer's commit came between."""
    for attempt in range(_COMMIT_TRIES):
        try:
            return write()
        except Exception as error:
            known = _as_known_error(name, error)
            if known is None:
                raise
            if not isinstance(known, ConflictError) or attempt == _COMMIT_TRIES - 1:
                raise known from error
        time.sleep(0.05 * 2**attempt)
    raise AssertionError("unreachable")


def _as_known_error(name: str, error: Exception) -> ForecacheError | None:
    text = str(error)
    if "No space left on device" in text or "os error 28" in text:
        return UnavailableError(
            f"The disk is full: the write to table {name!r} was given up and the table is as it was.",
            remedy="Free some space and run again.",
        )
    if "DELTA_FAILED_TO_MERGE_FIELDS" in text or "DELTA_MERGE_INCOMPATIBLE_DATATYPE" in text:
        return InputError(
            f"The table {name!r} holds a column of another type than the rows to be written: {text.splitlines()[0]}.",
            remedy="Give the changed column a new name, or remove the table and build it anew.",
        )
    if type(error).__name__ in _CONFLICTS or "DELTA_CONCURRENT" in text or "DELTA_METADATA_CHANGED" in text:
        return ConflictError(
            f"Another writer changed the table {name!r} at the same time.",
            remedy="Run again when it has ended.",
        )
    return None
