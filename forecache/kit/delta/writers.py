"""Data files for a commit: written by Spark's tasks, from Arrow rows, or rewritten without some rows.

They are in new folders below the table, where no reader sees them before a commit names them. Maintenance removes those
that a failed or killed run left behind.
"""

import json
import pickle
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from forecache.base.settings import Settings
from forecache.kit.delta.commit import TableState
from forecache.kit.delta.errors import as_known_error, as_refusal, open_data_file, translate_errors, type_mismatch_error
from forecache.kit.delta.files import (
    DataFile,
    Place,
    list_files,
    new_path,
    pickle_file,
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


def write_rows(rows: pa.Table, settings: Settings, name: str, *, partition_by: Sequence[str] = ()) -> list[DataFile]:
    """Write Arrow rows, one file for each of their partitions; none if there are no rows."""
    filesystem, folder = place_of(settings, name).open(), new_folder()
    found = []
    with translate_errors(partial(as_known_error, name)):
        for partition, some in _split_by_partition(rows, partition_by):
            write = partial(write_file, filesystem, new_path(folder, partition), some.schema, [some])
            found.append(retry_write(write, is_remote=settings.lake_is_remote))
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

    table = open_if_exists(settings, name)
    if table is None:
        return frame
    known = {each.name: each.type for each in table.schema().fields}
    wider = {}
    for given in schema_of(frame).fields:
        there = known.get(given.name, given.type)
        if there == given.type:
            continue
        kind = json.loads(there.to_json())
        if kind not in _WIDER.get(str(json.loads(given.type.to_json())), ()):
            raise type_mismatch_error(name, given.name, there, given.type)
        wider[given.name] = F.col(f"`{given.name}`").cast(kind)
    return frame.withColumns(wider) if wider else frame


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


def write_partitioned(
    frame: "DataFrame", settings: Settings, name: str, *, partition_by: str
) -> tuple["Schema", list[DataFile]]:
    """Write a frame's rows, one file a partition in each task of the frame; returns their columns and the files.

    On a disk Hadoop starts half a dozen `chmod` processes for every file that Spark writes: 546 days of 130 rows take
    14 seconds of CPU with Spark's writer and 4 with this one. On an object store Spark starts no such processes and
    retries requests by itself, so its own writer is used there.
    """
    place = place_of(settings, name)
    if "://" in place.uri:
        return write_frame(frame, settings, name, partition_by=partition_by)
    frame = cast_to_table(frame, settings, name)
    task = _write_task(place, new_folder(), partition_by)
    written = frame.sortWithinPartitions(partition_by).mapInArrow(task, "file binary")
    return schema_of(frame), collect_files(written, name)


def _write_task(
    place: Place, folder: str, column: str
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def write(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        filesystem = place.open()
        for value, pieces in groupby(_split_by_value(batches, column), itemgetter(0)):
            groups = _row_groups(rows for _, rows in pieces)
            first = next(groups)
            yield pickle_file(
                write_file(filesystem, new_path(folder, {column: value}), first.schema, chain([first], groups))
            )

    return write


def _split_by_value(batches: Iterable[pa.RecordBatch], column: str) -> Iterator[tuple[Any, pa.Table]]:
    """Split rows that are sorted by a column into tables of one value each, without the column."""
    for batch in batches:
        rows = pa.Table.from_batches([batch])
        for value in rows[column].unique():
            ours = pc.is_in(rows[column], pa.array([value.as_py()], value.type))
            yield value.as_py(), rows.filter(ours).drop_columns([column])


def _row_groups(pieces: Iterable[pa.Table]) -> Iterator[pa.Table]:
    held: list[pa.Table] = []
    for piece in pieces:
        held.append(piece)
        if sum(some.nbytes for some in held) >= _GROUP_BYTES:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)
