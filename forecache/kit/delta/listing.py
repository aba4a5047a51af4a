"""The tables of the lake, with versions, rows and sizes from their logs."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from forecache.base.settings import Settings
from forecache.kit.delta.files import Place, list_entries
from forecache.kit.delta.log import active_files
from forecache.kit.delta.tables import open_table, table_exists


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
    return [_info(settings, name) for name in table_names(settings)]


def table_names(settings: Settings) -> list[str]:
    """Names of the folders of the lake that are Delta tables."""
    if not settings.lake_is_remote:
        root = Path(settings.lake_uri)
        names = [entry.name for entry in root.iterdir() if entry.is_dir()] if root.is_dir() else []
    else:
        names = list(_object_store_folders(settings))
    return sorted(name for name in names if table_exists(settings, name))


def _object_store_folders(settings: Settings) -> Iterable[str]:
    from pyarrow import fs

    for entry in list_entries(Place(settings.lake_uri, settings.storage_options).open(), ""):
        if entry.type == fs.FileType.Directory:
            yield entry.base_name


def _info(settings: Settings, name: str) -> TableInfo:
    table = open_table(settings, name)
    files = active_files(table)
    rows = -1 if any(file.rows < 0 for file in files) else sum(file.rows for file in files)
    return TableInfo(name, table.version(), rows, len(files), sum(file.size_bytes for file in files))
