"""A partition of a table at one Delta version: its data files, their digest, and its rows, read by row groups."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from deltalake import DeltaTable

from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.files import fit_columns
from forecache.kit.delta.log import read_actions

BATCH_ROWS = 1 << 17
_Rows = TypeVar("_Rows", pa.RecordBatch, pa.Table)


@dataclass(frozen=True)
class RowGroup:
    """A row group of a data file; `values` counts those of its longest column: more than its rows if that has lists."""

    path: str
    row_group: int
    rows: int
    values: int

    @property
    def label(self) -> str:
        """Name for messages."""
        return f"{self.path} (row group {self.row_group})"


class PartitionReader:
    """Reads a partition's row groups at the Delta version that a table is open at; safe for threads.

    `value` is that of the partition column (date) as the Delta log writes it (ISO). `pieces` are the row groups in the
    order of the files' paths.
    """

    def __init__(self, table: DeltaTable, column: str, value: str) -> None:
        dataset = open_dataset(table, partitions=[(column, "=", value)])
        found = dataset.get_fragments(filter=pc.field(column) == date.fromisoformat(value))
        self._fragments = {fragment.path: fragment for fragment in sorted(found, key=lambda fragment: fragment.path)}
        self._column, self._table_schema = column, dataset.schema
        self.schema = to_plain_types(dataset.schema.empty_table()).schema
        self.pieces = [
            RowGroup(fragment.path, group.id, group.num_rows, _most_values(fragment.metadata.row_group(group.id)))
            for fragment in self._fragments.values()
            for group in fragment.row_groups
        ]

    def batches(self, piece: RowGroup, columns: list[str], *, batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a row group, in batches of bounded size: about `batch_rows` rows, or items of lists."""
        if piece.values > piece.rows and self._column not in columns:
            yield from self._list_batches(piece, columns, max(1, batch_rows * piece.rows // piece.values))
            return
        group = self._fragments[piece.path].subset(row_group_ids=[piece.row_group])
        # With the table's schema, as a file that is older than a column lacks it.
        for batch in group.to_batches(
            self._table_schema,
            columns=columns, batch_size=batch_rows, use_threads=False, batch_readahead=1, fragment_readahead=1,
        ):  # fmt: skip
            yield to_plain_types(batch)

    def _list_batches(self, piece: RowGroup, columns: list[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a row group with lists, decoded batch by batch: a dataset decodes all of it at once,
        which takes gigabytes if each row has a list."""
        fragment = self._fragments[piece.path]
        schema = pa.schema([self.schema.field(name) for name in columns])
        with pq.ParquetFile(fragment.open(), metadata=fragment.metadata, coerce_int96_timestamp_unit="us") as file:
            there = [name for name in columns if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_rows, row_groups=[piece.row_group], columns=there, use_threads=False):
                yield fit_columns(batch, schema)


_PLAIN = {
    pa.string_view(): pa.string(),
    pa.large_string(): pa.string(),
    pa.binary_view(): pa.binary(),
    pa.large_binary(): pa.binary(),
}


def _most_values(group: Any) -> int:
    """Values of the longest column of a row group, by its metadata."""
    return max(group.column(number).num_values for number in range(group.num_columns))


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Arrow's type without views, large offsets or fixed sizes, as writers differ in which of these they store."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(plain_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(member.name, plain_type(member.type)) for member in kind])
    return _PLAIN.get(kind, kind)


def to_plain_types(rows: _Rows) -> _Rows:
    """The same rows with the plain types of text, binary data and lists."""
    for position, column in enumerate(rows.schema):
        kind = plain_type(column.type)
        if kind != column.type:
            rows = rows.set_column(position, pa.field(column.name, kind), rows.column(position).cast(kind))
    return rows


def partition_files(table: DeltaTable, column: str, value: date) -> pa.Table:
    """The add actions (`path`, `num_records`) of a partition at the version that the table is open at."""
    return _filter_partition(read_actions(table), column, value)


def _filter_partition(actions: pa.Table, column: str, value: date) -> pa.Table:
    return actions.filter(pc.equal(actions[f"partition.{column}"].cast(pa.date32()), value))


def files_digest(files: pa.Table) -> str:
    """Digest of the names of data files, 32 hex digits; equal digests mean equal rows."""
    return xxhash.xxh3_128_hexdigest("\n".join(sorted(files["path"].to_pylist())).encode())


def partition_digests(table: DeltaTable, column: str, values: Sequence[date]) -> dict[date, str]:
    """The digest of each partition at the version that the table is open at; see `files_digest`."""
    actions = read_actions(table)
    return {value: files_digest(_filter_partition(actions, column, value)) for value in values}
