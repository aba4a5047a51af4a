"""Pinning a folder of Parquet files: its files with size and time, and their columns and bounds from the footers."""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from forecache.base.errors import UnavailableError
from forecache.base.settings import Settings
from forecache.declare import TableSource
from forecache.kit.delta.files import DataFile, Place, file_from_footer, list_entries
from forecache.kit.delta.tables import resolve_place
from forecache.plugins.table_sources.delta_table import day_of, pin_delta
from forecache.plugins.table_sources.pinned_table import (
    NANOSECONDS,
    PinnedFile,
    PinnedTable,
    require_source_columns,
    source_error,
    unavailable_error,
)

_FOOTERS_AT_ONCE = 16
_PATTERN = set("*?[]{}")


def pin_table(settings: Settings, source: TableSource) -> PinnedTable:
    """Pin an existing table as it is now; raises as `pin_delta` and `pin_parquet`."""
    pin = pin_delta if source.format == "delta" else pin_parquet
    return pin(source, resolve_place(settings, source.uri))


def pin_parquet(source: TableSource, place: Place) -> PinnedTable:
    """Pin the Parquet files below a folder, without those in folders or with names that start with "_" or ".".

    InputError if there is no folder, no file, a Delta table, a file that is not Parquet, or one with other columns.
    """
    filesystem = place.open()
    infos = _list_files(source, place, filesystem)
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE, thread_name_prefix="forecache-footers") as threads:
        checked = list(threads.map(lambda info: _inspect_file(source, place, filesystem, info), infos))
    types = _read_types(source, place, [types for _, types in checked])
    return PinnedTable(source, place, "", None, tuple(file for file, _ in checked), read_types=types)


def _read_types(source: TableSource, place: Place, files: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """By column that Spark cannot read with its declared type, the type to read it with."""
    types = {}
    for name in (column.name for column in source.columns):
        found = {file[name] for file in files}
        read_as = {_read_type(kind) for kind in found}
        if len(read_as) > 1:
            raise source_error(
                source,
                f"in the files of {place.uri} the column {name!r} is {' or '.join(sorted(found))}",
                "Write all files with one type.",
            )
        types[name] = read_as.pop()
    return {name: kind for name, kind in types.items() if kind}


def _read_type(kind: str) -> str:
    """Type to read an Arrow type with, for decimals and nanoseconds; "": the declared one."""
    decimal = re.fullmatch(r"decimal\d*(\(.+\))", kind)
    return f"decimal{decimal[1]}" if decimal else NANOSECONDS if kind.startswith("timestamp[ns") else ""


def _list_files(source: TableSource, place: Place, filesystem: Any) -> list[Any]:
    try:
        found = list_entries(filesystem, "", recursive=True)
    except OSError as error:
        raise unavailable_error(source, place.uri, error) from error
    if any(info.path.startswith("_delta_log/") for info in found):
        raise source_error(source, f"{place.uri} is a Delta table", 'Declare format="delta".')
    files = [
        info
        for info in found
        if info.type == pa.fs.FileType.File
        and info.path.endswith(".parquet")
        and not any(part.startswith(("_", ".")) for part in info.path.split("/"))
    ]
    if not files:
        raise source_error(source, f"there is no Parquet file in {place.uri}", "Correct its `uri` or `format`.")
    for info in files:
        if _PATTERN & set(info.path):
            rule = f"Rename it: Spark takes {' '.join(sorted(_PATTERN))} in a name for a pattern."
            raise source_error(source, f"there is a file {info.path!r} in {place.uri}", rule)
    return sorted(files, key=lambda info: info.path)


def _inspect_file(source: TableSource, place: Place, filesystem: Any, info: Any) -> tuple[PinnedFile, dict[str, str]]:
    """Read the footer of a file; returns the file, and its type by column."""
    try:
        with filesystem.open_input_file(info.path) as opened:
            metadata = pq.read_metadata(opened)
    except pa.ArrowInvalid as error:
        raise source_error(source, f"{info.path} in {place.uri} is no Parquet file", "Remove or replace it.") from error
    except FileNotFoundError as error:
        raise UnavailableError(
            f"Source {source.name!r} cannot be read: {info.path} in {place.uri} was removed while it was looked at.",
            remedy="Run again once whoever writes them has ended.",
        ) from error
    except OSError as error:
        raise unavailable_error(source, f"{place.uri}/{info.path}", error) from error
    file = file_from_footer(info.path, info.size, metadata)
    schema = metadata.schema.to_arrow_schema()
    types = {field.name: str(getattr(field.type, "value_type", field.type)) for field in schema}
    # Partition values take the declared type, as a folder's name has none.
    types |= {column.name: _FOLDER[column.type] for column in source.columns if column.name in file.partition}
    require_source_columns(source, types, where=f"{info.path} in {place.uri}")
    first, last = _days(file, source.day_column)
    return PinnedFile(info.path, f"{info.path} {info.size} {info.mtime_ns}", first, last), types


def _days(file: DataFile, day_column: str) -> tuple[Any, Any]:
    if day_column in file.partition:
        return (day_of(file.partition[day_column]),) * 2
    bounds = (file.statistics[bound].get(day_column) for bound in ("minValues", "maxValues"))
    first, last = map(day_of, bounds)
    return first, last


_FOLDER = {"string": "string", "int": "int32", "bigint": "int64", "double": "double", "date": "date32[day]",
           "timestamp": "timestamp", "boolean": "bool"}  # fmt: skip
