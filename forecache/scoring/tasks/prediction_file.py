"""Parquet files that are written atomically.

Runs inside Spark's Python workers: imports neither settings nor, for a lake on a disk, deltalake.
"""

import errno
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from forecache.base.errors import UnavailableError
from forecache.base.steps import lake_step

ROW_GROUP_ROWS = 1 << 18
"""Rows of a row group: enough that readers skip and scan it well, and few enough to wait in memory."""
_CHUNK = 4 << 20
# Statistics of repeated texts are computed once per this number of rows; with the writer's default of 1,024 they take a
# tenth of the writing time.
_WRITTEN_ROWS = 1 << 16


class ParquetOutput:
    """A Parquet file being written: batches wait until they make a row group."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def write(self, rows: pa.RecordBatch | pa.Table) -> None:
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows])
        self._waiting.append(table)
        self._rows += table.num_rows
        if self._rows >= ROW_GROUP_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write the batches that wait."""
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting), row_group_size=2 * ROW_GROUP_ROWS)
            self._waiting, self._rows = [], 0


@contextmanager
def explain_full_disk() -> Iterator[None]:
    """Raise the error of a full disk as UnavailableError that explains the state of the run."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC or "No space left" in str(error):
            raise UnavailableError(
                "The disk is full: scoring was given up and the predictions are as they were.",
                remedy="Free some space and run again; the scored shards are kept.",
            ) from error
        raise


@contextmanager
def open_output(filesystem: Any, path: str, schema: pa.Schema) -> Iterator[ParquetOutput]:
    """Open a Parquet file for writing, which appears at its path when it is complete, and not at all after an error.

    An existing file is replaced atomically, so that a task that is tried twice leaves one file.
    """
    with explain_full_disk():
        if isinstance(filesystem, pa.fs.SubTreeFileSystem):
            filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
            unfinished = f"{path}.{uuid.uuid4().hex}.draft"
            with filesystem.open_output_stream(unfinished) as sink, _rows_into(sink, schema) as output:
                yield output
            filesystem.move(unfinished, path)
        else:
            # An object appears when its stream is closed, even by an error: it is opened when the file is complete.
            with tempfile.TemporaryFile() as draft:
                with _rows_into(draft, schema) as output:
                    yield output
                draft.seek(0)
                with filesystem.open_output_stream(path) as sink, pa.BufferedOutputStream(sink, 2 * _CHUNK) as buffered:
                    while chunk := draft.read(_CHUNK):
                        buffered.write(chunk)  # deltalake's stream takes bytes only; this converts buffers
        lake_step("file written")


@contextmanager
def _rows_into(sink: Any, schema: pa.Schema) -> Iterator[ParquetOutput]:
    with _writer(sink, schema) as writer:
        output = ParquetOutput(writer)
        yield output
        output.flush()


def _writer(sink: Any, schema: pa.Schema) -> pq.ParquetWriter:
    repeating = [field.name for field in schema if field.name in ("model_version", "feature_version", "scored_at")]
    repeating += [field.name for field in schema if pa.types.is_dictionary(field.type)]
    repeating += [f"{field.name}.list.element.class" for field in schema if pa.types.is_list(field.type)]
    # On random numbers snappy saves at most a quarter, and takes a quarter of the writing time.
    compression = {field.name: "none" if pa.types.is_floating(field.type) else "snappy" for field in schema}
    return pq.ParquetWriter(
        sink,
        schema,
        compression=compression,
        use_dictionary=repeating,
        store_schema=False,
        write_batch_size=_WRITTEN_ROWS,
    )
