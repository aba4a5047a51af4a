"""The rows of one as-of date of a table in an environment, as DuckDB reads them, and the kinds of their columns."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from forecache.base.environments import LOCAL
from forecache.base.errors import NotFoundError
from forecache.base.settings import Settings
from forecache.base.table_names import AS_OF, PROVENANCE_COLUMNS
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.errors import damaged_file
from forecache.kit.delta.files import DataFile
from forecache.kit.delta.log import active_files
from forecache.kit.delta.tables import open_table, table_exists
from forecache.lake.query import quote_name, quote_text

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

Kind = Literal["number", "boolean", "text", "vector", "list", "other"]
"""Kinds of columns: a vector is a list of numbers; of a list of structures the first field is the item."""


@dataclass(frozen=True)
class Partition:
    """An as-of date of a table in an environment; it may have no rows, or the environment no such table.

    Attributes:
        night: None if the table is compared as a whole.
        version: Its Delta version; None: the newest.
    """

    settings: Settings
    table: str
    night: date | None = None
    version: int | None = None

    @cached_property
    def delta(self) -> "DeltaTable | None":
        if not table_exists(self.settings, self.table):
            return None
        return open_table(self.settings, self.table, version=self.version)

    @cached_property
    def files(self) -> list[DataFile]:
        if self.delta is None:
            return []
        found = active_files(self.delta)
        if self.night is None:
            return found
        return [file for file in found if file.partition.get(AS_OF) == self.night.isoformat()]

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    @cached_property
    def types(self) -> "dict[str, pa.DataType]":
        """The columns to compare, by name, without those of partitions and of provenance."""
        import pyarrow as pa

        if self.delta is None or not self.files:
            return {}
        left_out = {AS_OF, *PROVENANCE_COLUMNS}
        return {field.name: field.type for field in pa.schema(self.delta.schema()) if field.name not in left_out}

    def identity(self, file: DataFile) -> tuple[Any, ...]:
        """The same for two files only if they are the same bytes: a file of a fork is a link to that of its base."""
        uri = self.settings.table_uri(self.table)
        if "://" in uri:
            return (uri, file.path)
        try:
            found = os.stat(Path(uri) / file.path)
        except FileNotFoundError:
            if self.version is None:
                raise damaged_file(file.path, self.table) from None
            raise NotFoundError(
                f"The table {self.table!r} of {self.settings.env or LOCAL} lacks the file {file.path} of version "
                f"{self.version}.",
                remedy="Maintenance removes files of earlier versions: compare later ones.",
            ) from None
        return (found.st_dev, found.st_ino, found.st_size)

    def register(self, connection: Any, name: str, files: Sequence[DataFile]) -> None:
        """Make a view of some of the files, whose columns are `types`; a column that no file has is null."""
        uri = self.settings.table_uri(self.table)
        if not files:
            import pyarrow as pa

            types = self.types or {"nothing": pa.null()}
            connection.register(name, pa.schema(list(types.items())).empty_table())
            return
        if "://" in uri:
            connection.register(name, self._dataset(files))
            return
        paths = ", ".join(quote_text(str(Path(uri) / file.path)) for file in files)
        read = f"read_parquet([{paths}], union_by_name = true, hive_partitioning = false)"
        there = {row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {read}").fetchall()}
        columns = [quote_name(column) if column in there else f"NULL AS {quote_name(column)}" for column in self.types]
        connection.execute(f"CREATE VIEW {name} AS SELECT {', '.join(columns)} FROM {read}")

    def _dataset(self, files: Sequence[DataFile]) -> Any:
        import pyarrow.dataset as ds

        assert self.delta is not None
        partitions = None if self.night is None else [(AS_OF, "=", self.night.isoformat())]
        whole, wanted = open_dataset(self.delta, partitions=partitions), {file.path for file in files}
        fragments = [each for each in whole.get_fragments() if each.path in wanted]
        return ds.FileSystemDataset(fragments, whole.schema, whole.format, whole.filesystem)


def kind_of(kind: "pa.DataType") -> Kind:
    """The kind of a column by its Arrow type."""
    import pyarrow as pa

    types = pa.types
    if types.is_boolean(kind):
        return "boolean"
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return "number"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "text"
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return "vector" if kind_of(kind.value_type) == "number" and not types.is_integer(kind.value_type) else "list"
    return "other"
