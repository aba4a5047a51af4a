"""Rows of a table's data files with the columns of a schema, whichever of these a file has.

Runs inside Spark's Python workers too: imports neither settings nor, before an error, deltalake.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from forecache.kit.delta.files import DataFile
from forecache.kit.delta.read_errors import damaged_file, open_data_file

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
