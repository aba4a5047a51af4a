"""One split of the training table at a Delta version, in chunks that can be read independently."""

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import xxhash
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler
from pyarrow import compute as pc
from pyarrow import fs
from pyarrow import parquet as pq

from forecache.base.errors import InputError
from forecache.lake.split_rows import label_numbers
from forecache.models.inference.encoding import MatrixEncoding

SPLIT = "split"
_BATCH_ROWS = 1 << 14
# Per column and open lane. Without it Arrow reads whole columns of a row group, whose size the table's writer chose.
_LOCAL_BUFFER_BYTES, _REMOTE_BUFFER_BYTES = 1 << 17, 1 << 20


@dataclass(frozen=True)
class Chunk:
    """One row group of one file, and the number of its rows that belong to the split."""

    path: str
    row_group: int
    rows: int
    whole: bool


class TableSplit:
    """Reads and decodes the rows of one split of a training table at a Delta version.

    Args:
        classes: Of a label of classes, in the order in which they are numbered.
        weight: The column of the rows' weights; "" without.
        encoding: Encoding of the features into a matrix; None: all are numbers.
        cache_bytes: If all rows fit in this size, each row group is decoded once and kept in memory.

    Raises:
        InputError: The table lacks a column, or the split has no row.
    """

    def __init__(
        self,
        table: DeltaTable,
        name: str,
        *,
        features: tuple[str, ...],
        label: str,
        classes: tuple[str, ...] = (),
        weight: str = "",
        cache_bytes: int = 0,
        encoding: MatrixEncoding | None = None,
    ) -> None:
        self.name, self.features, self.label, self.classes = name, features, label, classes
        self._encoding = None if encoding is None or encoding.is_plain else encoding
        self._labels = (label, weight) if weight else (label,)
        self._files = _file_system(table)
        _require_columns(table, (*features, *self._labels))
        self.chunks = tuple(_chunks(table, self._files, name))
        self.rows = sum(chunk.rows for chunk in self.chunks)
        if not self.rows:
            raise InputError(
                f"The split {name!r} of {table.table_uri} has no row at version {table.version()}.",
                remedy="Build the training set for an as-of date with enough history.",
            )
        cached = self.rows * 4 * self.width <= cache_bytes
        self._cache: dict[Chunk, np.ndarray] | None = {} if cached else None

    @property
    def num_labels(self) -> int:
        """1, or 2 if rows have a weight."""
        return len(self._labels)

    @property
    def width(self) -> int:
        """Numbers of a row: the features, the label and its weight."""
        return self.num_features + self.num_labels

    @property
    def num_features(self) -> int:
        """Columns of the features' matrix."""
        return self._encoding.width if self._encoding else len(self.features)

    @property
    def fingerprint(self) -> str:
        """Hash of the chunks; a position is valid only for the same chunks."""
        text = "\n".join(f"{chunk.path} {chunk.row_group} {chunk.rows}" for chunk in self.chunks)
        return xxhash.xxh3_64_hexdigest(text.encode())

    def read(self, chunk: Chunk, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Rows [start, stop) of the chunk's rows in this split, as float32 [n, width], the labels last."""
        stop = chunk.rows if stop is None else stop
        if self._cache is not None:
            if chunk not in self._cache:
                self._cache[chunk] = np.concatenate(list(self._decode(chunk, 0, chunk.rows)))
            yield self._cache[chunk][start:stop]
        else:
            yield from self._decode(chunk, start, stop)

    def _decode(self, chunk: Chunk, start: int, stop: int) -> Iterator[np.ndarray]:
        columns = [*self.features, *self._labels] + ([] if chunk.whole else [SPLIT])
        local = isinstance(self._files, fs.SubTreeFileSystem)
        buffer_bytes = _LOCAL_BUFFER_BYTES if local else _REMOTE_BUFFER_BYTES
        done = 0
        with self._files.open_input_file(chunk.path) as file:
            batches = pq.ParquetFile(file, buffer_size=buffer_bytes, pre_buffer=False).iter_batches(
                _BATCH_ROWS, row_groups=[chunk.row_group], columns=columns, use_threads=False
            )
            for batch in batches:
                mine = None if chunk.whole else pc.equal(batch.column(SPLIT), self.name)
                rows = batch.num_rows if mine is None else pc.sum(mine).as_py() or 0
                first, last = max(0, start - done), min(rows, stop - done)
                done += rows
                if first < last:  # skipping rows before `start` takes a tenth of converting them
                    wanted = batch if mine is None else batch.filter(mine)
                    yield self._matrix(wanted.slice(first, last - first), chunk)
                if done >= stop:
                    return

    def _matrix(self, batch: pa.RecordBatch, chunk: Chunk) -> np.ndarray:
        if batch.column(self.label).null_count:
            raise InputError(
                f"The label {self.label!r} is null in {batch.column(self.label).null_count} rows of {chunk.path}.",
                remedy="The label's function must leave out entities without a value: build the training set again.",
            )
        matrix = np.empty((batch.num_rows, self.width), dtype=np.float32)
        if self._encoding is None:
            for position, column in enumerate(self.features):
                matrix[:, position] = batch.column(column).to_numpy(zero_copy_only=False)
        else:
            matrix[:, : self.num_features] = self._encoding.matrix([batch.column(name) for name in self.features])
        matrix[:, self.num_features] = label_numbers(batch.column(self.label), self.classes)
        for position, column in enumerate(self._labels[1:], self.num_features + 1):
            matrix[:, position] = batch.column(column).to_numpy(zero_copy_only=False)
        return matrix


def _file_system(table: DeltaTable) -> fs.FileSystem:
    uri = unquote(table.table_uri.removeprefix("file://"))
    if "://" not in uri:
        return fs.SubTreeFileSystem(uri, fs.LocalFileSystem())  # Python's file objects would cost a third of the speed
    return fs.PyFileSystem(DeltaStorageHandler.from_table(table._table))


def _require_columns(table: DeltaTable, wanted: tuple[str, ...]) -> None:
    present = {field.name for field in table.schema().fields}
    missing = [name for name in (*wanted, SPLIT) if name not in present]
    if missing:
        raise InputError(
            f"The training table {table.table_uri} has no column {missing[0]!r} at version {table.version()}.",
            remedy="Build the training set again after changing the pipeline's features.",
        )


def _chunks(table: DeltaTable, files: fs.FileSystem, name: str) -> Iterator[Chunk]:
    """Row groups with rows of the split, ordered by file name, so that a version always gives the same order."""
    actions = pa.table(table.get_add_actions(flatten=True))
    partition = f"partition.{SPLIT}" if f"partition.{SPLIT}" in actions.column_names else None
    splits = actions.column(partition).to_pylist() if partition else [None] * actions.num_rows
    for path, split in sorted(zip(actions.column("path").to_pylist(), splits, strict=True)):
        if split is not None and split != name:
            continue
        with files.open_input_file(path) as file:
            parquet = pq.ParquetFile(file)
            for row_group in range(parquet.num_row_groups):
                total = parquet.metadata.row_group(row_group).num_rows
                rows = total if partition else _count(parquet, row_group, name)
                if rows:
                    yield Chunk(path, row_group, rows, whole=rows == total)


def _count(parquet: pq.ParquetFile, row_group: int, name: str) -> int:
    column = parquet.read_row_group(row_group, columns=[SPLIT], use_threads=False).column(SPLIT)
    return int(pc.sum(pc.equal(column, name)).as_py() or 0)
