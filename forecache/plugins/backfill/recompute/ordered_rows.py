"""Reads the rows of a stream's table in their order, a part at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from forecache.base.settings import Settings
from forecache.kit.delta.files import place_of
from forecache.kit.delta.log import active_files, open_if_exists
from forecache.kit.delta.read_errors import open_data_file
from forecache.stream.table_schema import PLACE, POSITION

if TYPE_CHECKING:
    from deltalake import DeltaTable


@dataclass(frozen=True)
class _TableFile:
    path: str
    partition: dict[str, Any]
    first: int
    last: int


def read_ordered_rows(settings: Settings, table: str) -> Iterator[pa.Table]:
    """Yield all rows sorted by position and place, in parts.

    A part has the rows of files whose positions overlap: of one commit or, once an hour is compacted, of an hour.
    """
    delta = open_if_exists(settings, table)
    if delta is None:
        return
    schema = pa.schema(delta.schema())
    filesystem = place_of(settings, table).open()
    for files in _group_overlapping(_list_files(delta)):
        rows = pa.concat_tables([_read(filesystem, table, file, schema) for file in files])
        yield rows.sort_by([(POSITION, "ascending"), (PLACE, "ascending")])


def _list_files(delta: "DeltaTable") -> list[_TableFile]:
    actions = delta.get_add_actions(flatten=True)
    first, last = (actions.column(f"{bound}.{POSITION}").to_pylist() for bound in ("min", "max"))
    found = [
        _TableFile(file.path, dict(file.partition), first[i], last[i]) for i, file in enumerate(active_files(delta))
    ]
    return sorted(found, key=lambda file: file.first)


def _group_overlapping(files: Sequence[_TableFile]) -> Iterator[list[_TableFile]]:
    """Yield groups of files; the positions in a group are above those in the groups before."""
    group: list[_TableFile] = []
    for file in files:
        if group and file.first > max(other.last for other in group):
            yield group
            group = []
        group.append(file)
    if group:
        yield group


def _read(filesystem: Any, table: str, file: _TableFile, schema: pa.Schema) -> pa.Table:
    """Read the rows of a file with all columns of the table."""
    with open_data_file(filesystem, file.path, table) as source:
        rows = pq.ParquetFile(source).read()
    columns = []
    for field in schema:
        if field.name in rows.column_names:
            columns.append(rows[field.name].cast(field.type))
        elif field.name in file.partition:
            value = pa.scalar(file.partition[field.name], pa.string()).cast(field.type)
            columns.append(pa.repeat(value, rows.num_rows))
        else:
            columns.append(pa.nulls(rows.num_rows, field.type))
    return pa.table(columns, schema=schema)
