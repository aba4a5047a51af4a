"""Parquet files that appear whole or not at all.

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

from forecache.errors import UnavailableError
from forecache.steps import lake_step

ROW_GROUP_ROWS = 1 << 18
"""Rows of a row group: enough that readers skip and scan it well, and few enough to wait in memory."""
_CHUNK = 4 << 20
# Statistics of words that repeat are made once for each so many rows; by the thousand, as the writer has it by default,
# they are a tenth of the time of writing.
_WRITTEN_ROWS = 1 << 16


class Output:
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
        """Write what waits."""
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting), row_group_size=2 * ROW_GROUP_ROWS)
            self._waiting, self._rows = [], 0


@contextmanager
def disk_full_named() -> Iterator[None]:
    """Turn the error of a full disk into one that says what became of the run.

    Raises:
        UnavailableError: No space is left on the device.
    """
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
def open_output(filesystem: Any, path: str, schema: pa.Schema) -> Iterator[Output]:
    """A Parquet file to write, which appears under its path when it is complete, and not at all after an error.

    A file that is there already is replaced in one step, so that a task that is tried twice leaves one.

    Raises:
        UnavailableError: No space is left on the device.
    """
    with disk_full_named():
        if isinstance(filesystem, pa.fs.SubTreeFileSystem):
            filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
            unfinished = f"{path}.{uuid.uuid4().hex}.draft"
            with filesystem.open_output_stream(unfinished) as sink, _rows_into(sink, schema) as output:
                yield output
            filesystem.move(unfinished, path)
        else:
            # An object appears at its close, whatever made the stream close: it is opened when all is there.
            with tempfile.TemporaryFile() as draft:
                with _rows_into(draft, schema) as output:
                    yield output
                draft.seek(0)
                with filesystem.open_output_stream(path) as sink, pa.BufferedOutputStream(sink, 2 * _CHUNK) as buffered:
                    while chunk := draft.read(_CHUNK):
                        buffered.write(chunk)  # deltalake's stream takes bytes, which only this makes of a buffer
        lake_step("file written")


@contextmanager
def _rows_into(sink: Any, schema: pa.Schema) -> Iterator[Output]:
    with _writer(sink, schema) as writer:
        output = Output(writer)
        yield output
        output.flush()


def _writer(sink: Any, schema: pa.Schema) -> pq.ParquetWriter:
    repeating = [field.name for field in schema if field.name in ("model_version", "feature_version", "scored_at")]
    repeating += [field.name for field in schema if pa.types.is_dictionary(field.type)]
    repeating += [f"{field.name}.list.element.class" for field in schema if pa.types.is_list(field.type)]
    # Of random numbers snappy saves a quarter at most, and would be a quarter of the time that writing takes.
    compression = {field.name: "none" if pa.types.is_floating(field.type) else "snappy" for field in schema}
    return pq.ParquetWriter(
        sink,
        schema,
        compression=compression,
        use_dictionary=repeating,
        store_schema=False,
        write_batch_size=_WRITTEN_ROWS,
    )
