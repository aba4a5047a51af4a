"""Copies of prediction files without the rows of some keys.

Columns with one value in all rows of a row group, such as model version and run id, are not read: the value is taken
from the row group's statistics.
"""

import uuid
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from forecache.kit.delta.comparison.partition import plain_type
from forecache.scoring.tasks.prediction_file import ROW_GROUP_ROWS, open_output
from forecache.scoring.tasks.prediction_rows import same_word


@dataclass(frozen=True)
class FileCopy:
    """Result of copying a prediction file; `path` is the file's own path if it was left unchanged."""

    path: str
    rows: int


@dataclass(frozen=True)
class Copier:
    """Copies the files of a night, without the entities whose ids are in `drop`, ascending; threads may share it."""

    filesystem: Any
    key: tuple[str, ...]
    schema: pa.Schema  # of the copies, from `forecache.scoring.tasks.prediction_rows.file_schema`
    drop: pa.Array
    folder: str
    same_night: bool  # the copies replace the files: a file without a row to drop is left unchanged

    def copy(self, path: str) -> FileCopy:
        """Copy a file into the folder, unless the copy would equal the file."""
        waiting: list[list[int]] = []
        output, rows, copy = None, 0, new_file(self.folder)
        with self.filesystem.open_input_file(path) as opened, ExitStack() as stack:
            parquet = pq.ParquetFile(opened, read_dictionary=_dictionary_columns(self.schema))
            for groups in _groups_together(parquet.metadata):
                likely = self._keys_in_range(parquet.metadata, groups)
                may_stay = output is None and self.same_night
                whole = sum(parquet.metadata.row_group(i).num_rows for i in groups)
                kept = None if may_stay and not len(likely) else self._read_kept_rows(parquet, groups, likely)
                rows += whole if kept is None else kept.num_rows
                if kept is None or (may_stay and kept.num_rows == whole):
                    waiting.append(groups)
                    continue
                if output is None:
                    output = stack.enter_context(open_output(self.filesystem, copy, self.schema))
                    for earlier in waiting:
                        output.write(self._read_kept_rows(parquet, earlier, []))
                output.write(kept)
        return FileCopy(path if output is None else copy, rows)

    def _read_kept_rows(self, parquet: pq.ParquetFile, groups: list[int], drop: Sequence[pa.Scalar]) -> pa.Table:
        same = _same_values(parquet.metadata, groups, self.schema, self.key)
        columns = [name for name in self.schema.names if name not in same]
        table = parquet.read_row_groups(groups, columns=columns, use_threads=False)
        if len(drop):
            known = entity_ids([table.column(name) for name in self.key])
            table = table.filter(pc.invert(pc.is_in(known, value_set=drop)))
        table = table.unify_dictionaries().combine_chunks()
        return pa.table(
            [
                _repeat_value(same[field.name], table.num_rows, field.type)
                if field.name in same
                else as_type(table.column(field.name), field.type)
                for field in self.schema
            ],
            schema=self.schema,
        )

    def _keys_in_range(self, metadata: pq.FileMetaData, groups: list[int]) -> pa.Array:
        """The keys to drop that are not below the least or above the greatest of some row groups."""
        kind = self.drop.type
        if len(self.key) > 1 or not (pa.types.is_string(kind) or pa.types.is_integer(kind)):
            return self.drop
        position = next(i for i in range(metadata.num_columns) if metadata.schema.column(i).path == self.key[0])
        found = [metadata.row_group(group).column(position).statistics for group in groups]
        if any(statistics is None or not statistics.has_min_max for statistics in found):
            return self.drop
        first = bisect_left(self.drop, min(each.min for each in found), key=_value)
        return self.drop[first : bisect_right(self.drop, max(each.max for each in found), key=_value)]


def _value(scalar: pa.Scalar) -> Any:
    return scalar.as_py()


def new_file(folder: str) -> str:
    """A path for a file of this attempt's own."""
    return f"{folder}/part-{uuid.uuid4().hex}.snappy.parquet"


def entity_ids(columns: Sequence[Any]) -> Any:
    """One column that identifies entities: the key itself, or the parts of a composite one, each with its length."""
    plain = [column.cast(plain_type(column.type)) for column in columns]
    if len(plain) == 1:
        return plain[0]
    texts = [column.cast(pa.string()) for column in plain]
    marked = [pc.binary_join_element_wise(pc.utf8_length(text).cast(pa.string()), text, ":") for text in texts]
    return pc.binary_join_element_wise(*marked, ",")


def as_type(column: Any, kind: pa.DataType) -> Any:
    """Cast a column to its type in a prediction file, in which texts that repeat are dictionaries."""
    if column.type == kind:
        return column
    return column.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else column.cast(kind)


def _dictionary_columns(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if pa.types.is_dictionary(field.type)]


def _groups_together(metadata: pq.FileMetaData) -> Iterator[list[int]]:
    """The row groups of a file, as many together as a row group of the copy has room for."""
    together: list[int] = []
    rows = 0
    for i in range(metadata.num_row_groups):
        more = metadata.row_group(i).num_rows
        if together and rows + more > ROW_GROUP_ROWS:
            yield together
            together, rows = [], 0
        together.append(i)
        rows += more
    if together:
        yield together


def _same_values(metadata: pq.FileMetaData, groups: list[int], schema: pa.Schema, key: Sequence[str]) -> dict[str, Any]:
    """The columns beside key and output that have one value in all rows of some row groups, and that value."""
    found: dict[str, Any] = {}
    for i in range(metadata.num_columns):
        name = metadata.schema.column(i).path
        if name in key or name not in schema.names or pa.types.is_floating(schema.field(name).type):
            continue
        bounds = set()
        for group in groups:
            statistics = metadata.row_group(group).column(i).statistics
            if statistics is None or not statistics.has_min_max or statistics.null_count != 0:
                break
            bounds |= {statistics.min, statistics.max}
        else:
            if len(bounds) == 1:
                found[name] = bounds.pop()
    return found


def _repeat_value(value: Any, rows: int, kind: pa.DataType) -> pa.Array:
    return _row_groups(value, -(-rows // ROW_GROUP_ROWS), kind).slice(0, rows)


@lru_cache(maxsize=16)
def _row_groups(value: Any, count: int, kind: pa.DataType) -> pa.Array:
    """One value repeated for all rows of `count` row groups, cached because all files of a night share it."""
    rows = count * ROW_GROUP_ROWS
    return same_word(value, rows) if pa.types.is_dictionary(kind) else pa.repeat(pa.scalar(value, kind), rows)
