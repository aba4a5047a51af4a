"""Data files for a commit: written by Spark's tasks, from Arrow rows, or rewritten without some rows.

They are in new folders below the table, where no reader sees them before a commit names them. Maintenance removes those
that a failed or killed run left behind.
"""

import json
import pickle
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from forecache.base.settings import Settings
from forecache.kit.delta.commit import TableState
from forecache.kit.delta.errors import as_known_error, as_refusal, open_data_file, translate_errors, type_mismatch_error
from forecache.kit.delta.files import (
    DataFile,
    list_files,
    new_path,
    place_of,
    retry_write,
    write_file,
)
from forecache.kit.delta.log import open_if_exists
from forecache.kit.spark.session import spark_path

if TYPE_CHECKING:
    from deltalake import Schema
    from pyspark.sql import DataFrame


_BATCH_ROWS = 1 << 17
_GROUP_ROWS, _FILE_BYTES = 1 << 16, 64 << 20
# By type of the rows, the types of the table to which Spark casts them without loss.
_WIDER = {
    "byte": ("short", "integer", "long"),
    "short": ("integer", "long"),
    "integer": ("long", "double"),
    "float": ("double",),
}


def write_frame(
    frame: "DataFrame", settings: Settings, name: str, *, partition_by: str | None = None, fit: bool = True
) -> tuple["Schema", list[DataFile]]:
    """Write a frame's rows with Spark; returns their columns and the files.

    With `fit` columns are cast to their types in the table if those are wider; InputError if they do not fit.
    """
    if fit:
        frame = cast_to_table(frame, settings, name)
    folder = new_folder()
    writer = frame.write.option("mapreduce.fileoutputcommitter.marksuccessfuljobs", "false")
    if partition_by:
        writer = writer.partitionBy(partition_by)
    with translate_errors(lambda error: as_known_error(name, error) or as_refusal(error)):
        writer.parquet(f"{spark_path(settings.table_uri(name))}/{folder}")
    return schema_of(frame), list_files(place_of(settings, name).open(), folder)


def write_rows(
    rows: pa.Table,
    settings: Settings,
    name: str,
    *,
    partition_by: Sequence[str] = (),
    group_rows: int | None = None,
) -> list[DataFile]:
    """Write Arrow rows, one file for each of their partitions, in groups of so many; none if there are no rows."""
    filesystem, folder = place_of(settings, name).open(), new_folder()
    found = []
    with translate_errors(partial(as_known_error, name)):
        for partition, some in _split_by_partition(rows, partition_by):
            write = partial(
                write_file, filesystem, new_path(folder, partition), some.schema, [some], group_rows=group_rows
            )
            found.append(retry_write(write, is_remote=settings.lake_is_remote))
    return found


def write_partition(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, settings: Settings, name: str, partition: Mapping[str, Any]
) -> list[DataFile]:
    """Write the rows of a partition as they come, without its columns, in files of some 64 MB; none without rows."""
    filesystem, folder, found = place_of(settings, name).open(), new_folder(), list[DataFile]()
    tables = (pa.Table.from_batches([each]).select(schema.names).cast(schema) for each in batches if each.num_rows)
    with translate_errors(partial(as_known_error, name)):
        for rows in join_to_groups(tables, num_bytes=_FILE_BYTES):
            path = new_path(folder, partition)
            write_one = partial(write_file, filesystem, path, schema, [rows], group_rows=_GROUP_ROWS)
            found.append(retry_write(write_one, is_remote=settings.lake_is_remote))
    return found


class RowRemover:
    """Rewrites the files of a table that have rows with `column IN values`, without these rows.

    As files are immutable, the result for a file is kept, and the next attempt of a commit reuses it.
    """

    def __init__(self, settings: Settings, name: str, column: str, values: frozenset[str]) -> None:
        self._settings, self._filesystem = settings, place_of(settings, name).open()
        self._name, self._column = name, column
        self._values = pa.array(sorted(values), pa.string())
        self._folder = new_folder()
        self._done: dict[str, tuple[bool, DataFile | None]] = {}

    def rewrite_files(self, state: TableState, files: Sequence[DataFile]) -> tuple[list[DataFile], list[DataFile]]:
        """Returns the files that have such rows, and new files with their other rows."""
        replaced, rest = [], []
        for file in files:
            if file.path not in self._done:
                self._done[file.path] = retry_write(
                    partial(self._rewrite_file, state, file), is_remote=self._settings.lake_is_remote
                )
            concerned, left = self._done[file.path]
            replaced += [file] if concerned else []
            rest += [left] if left is not None else []
        return replaced, rest

    def _rewrite_file(self, state: TableState, file: DataFile) -> tuple[bool, DataFile | None]:
        with open_data_file(self._filesystem, file.path, self._name) as source:
            parquet = pq.ParquetFile(source)
            dropped = sum(
                pc.sum(pc.is_in(batch.column(0).cast(pa.string()), self._values)).as_py() or 0
                for batch in parquet.iter_batches(_BATCH_ROWS, columns=[self._column], use_threads=False)
            )
            if dropped in (0, parquet.metadata.num_rows):
                return dropped > 0, None
            assert state.delta is not None
            known = {each.name: each for each in pa.schema(state.delta.schema())}
            schema = pa.schema([known[name] for name in parquet.schema_arrow.names])
            path = new_path(self._folder, file.partition)
            return True, write_file(self._filesystem, path, schema, self._remaining_rows(parquet, schema))

    def _remaining_rows(self, parquet: pq.ParquetFile, schema: pa.Schema) -> Iterator[pa.Table]:
        for batch in parquet.iter_batches(_BATCH_ROWS, use_threads=False):
            wanted = pc.invert(pc.is_in(batch.column(self._column).cast(pa.string()), self._values))
            yield pa.Table.from_batches([batch]).filter(wanted).cast(schema)


def collect_files(frame: "DataFrame", name: str) -> list[DataFile]:
    """Run a frame whose tasks write files of a table and return them pickled (`pickle_file`).

    A retried task writes files with other names, and only those of its last attempt are returned.
    """
    with translate_errors(partial(as_known_error, name)):
        return [pickle.loads(row.file) for row in frame.collect()]


def new_folder() -> str:
    return f"written-{uuid.uuid4().hex}"


def schema_of(frame: "DataFrame") -> "Schema":
    """The frame's columns as a Delta schema, all of them nullable."""
    from deltalake import Schema

    return Schema.from_json(json.dumps(_to_nullable(json.loads(frame.schema.json()))))


def _to_nullable(kind: Any) -> Any:
    """A type of Spark's JSON schema with everything nullable and without column comments."""
    if not isinstance(kind, dict):
        return kind
    flags = {"nullable": True, "containsNull": True, "valueContainsNull": True, "metadata": {}}
    return {
        key: [_to_nullable(each) for each in value] if key == "fields" else flags.get(key, _to_nullable(value))
        for key, value in kind.items()
    }


def cast_to_table(frame: "DataFrame", settings: Settings, name: str) -> "DataFrame":
    """Cast columns of a frame to their types in the table if those are wider; InputError if they do not fit."""
    from pyspark.sql import functions as F

    wider = _find_wider_types(schema_of(frame), settings, name)
    casts = {column: F.col(f"`{column}`").cast(json.loads(kind.to_json())) for column, kind in wider.items()}
    return frame.withColumns(casts) if wider else frame


def fit_schema(schema: pa.Schema, settings: Settings, name: str) -> pa.Schema:
    """Replace types of columns by those in the table if these are wider; InputError if they do not fit."""
    from deltalake import Schema
    from deltalake.schema import Field

    wider = _find_wider_types(Schema.from_arrow(schema), settings, name)
    kinds = {column: pa.schema(Schema([Field(column, kind)])).field(column).type for column, kind in wider.items()}
    return pa.schema([(field.name, kinds.get(field.name, field.type)) for field in schema])


def _find_wider_types(given: "Schema", settings: Settings, name: str) -> dict[str, Any]:
    """Delta types of the columns that are wider in the table; InputError if a column does not fit."""
    table = open_if_exists(settings, name)
    if table is None:
        return {}
    known = {each.name: each.type for each in table.schema().fields}
    wider = {}
    for column in given.fields:
        there = known.get(column.name, column.type)
        if there == column.type:
            continue
        kind = json.loads(there.to_json())
        if kind not in _WIDER.get(str(json.loads(column.type.to_json())), ()):
            raise type_mismatch_error(name, column.name, there, column.type)
        wider[column.name] = there
    return wider


def cast_to_delta_types(rows: pa.Table) -> pa.Table:
    """Cast rows to the types that their Delta table will have."""
    from deltalake import Schema

    return rows.cast(pa.schema(Schema.from_arrow(rows.schema)))


def _split_by_partition(rows: pa.Table, names: Sequence[str]) -> Iterator[tuple[dict[str, Any], pa.Table]]:
    """Split rows by partition: the values of the partition columns, and the rows without these columns."""
    if not rows.num_rows:
        return
    if not names:
        yield {}, rows
        return
    for values in rows.select(names).group_by(list(names)).aggregate([]).to_pylist():
        ours = pa.array([row == values for row in rows.select(names).to_pylist()], pa.bool_())
        yield values, rows.filter(ours).drop_columns(list(names))


# Size of a row group, which is held in memory.
_GROUP_BYTES = 32 << 20


def join_to_groups(pieces: Iterable[pa.Table], *, num_bytes: int = _GROUP_BYTES) -> Iterator[pa.Table]:
    """Join tables to such of a size, by default that of a row group."""
    held, held_bytes = list[pa.Table](), 0
    for piece in pieces:
        held.append(piece)
        held_bytes += piece.nbytes
        if held_bytes >= num_bytes:
            yield pa.concat_tables(held)
            held, held_bytes = [], 0
    if held:
        yield pa.concat_tables(held)
