"""Parsing of landing files to rows of text with line numbers, in bounded memory, for any bytes.

Every file becomes rows of strings; types are left to Spark, so that a value that does not fit its type is a row in
quarantine and not a failed job. A file is read three times: for its checksum, to count its rows and find out whether it
is readable, and for the rows; a bad one is a row with an error. `parse_files` runs in Spark's workers and imports
nothing of Spark.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from typing import TYPE_CHECKING, Any, BinaryIO

from forecache.base.errors import InputError
from forecache.declare import Source
from forecache.lake.ingest.landing import file_day, open_landing
from forecache.lake.ingest.landing_rows import (
    KEPT_BYTES,
    ParsedRow,
    column_names,
    csv_rows,
    json_rows,
    parquet_column_names,
    parquet_rows,
    require_declared_columns,
    require_header,
    text_batches,
)
from forecache.lake.ingest.row_count import checksum, count_rows

if TYPE_CHECKING:
    import pyarrow as pa


_ROWS_PER_BATCH = 20_000
_BYTES_PER_BATCH = 8 << 20


def parsed_columns(source: Source) -> dict[str, str]:
    """Columns of `parse_files` with their Spark types."""
    return {
        "source_file": "string",
        "source_line": "bigint",
        "content": "string",
        "error": "string",
        "sha256": "string",
        "counted_rows": "bigint",
        **{column.name: "string" for column in source.columns},
    }


def parse_files(
    batches: Iterable["pa.RecordBatch"],
    *,
    uri: str,
    storage_options: dict[str, str],
    source: Source,
    refused: dict[str, str],
) -> Iterator["pa.RecordBatch"]:
    """Yield the rows of the files named in `source_file`, with `parsed_columns`; those in `refused` have its reason."""
    names = [name for batch in batches for name in batch.column("source_file").to_pylist()]
    rows: list[tuple[Any, ...]] = []
    num_bytes = 0
    for name in names:
        with open_landing(uri, storage_options, name) as stream:
            for row in parse_file(name, stream, source, refused=refused.get(name)):
                rows.append((name, row.line, row.content, row.error, row.sha256, row.counted_rows, *row.values))
                num_bytes += len(row.content or "")
                if len(rows) >= _ROWS_PER_BATCH or num_bytes >= _BYTES_PER_BATCH:
                    yield _to_batch(rows, source)
                    rows, num_bytes = [], 0
    if rows:
        yield _to_batch(rows, source)


def add_event_day(batches: Iterable["pa.RecordBatch"], days: Mapping[str, date | None]) -> Iterator["pa.RecordBatch"]:
    """Append a column `event_day` (date32) to batches of `parse_files`: the day of the file of each row."""
    import pyarrow as pa

    for batch in batches:
        files = batch.column("source_file").dictionary_encode()
        of_files = pa.array([days[name] for name in files.dictionary.to_pylist()], pa.date32())
        yield batch.append_column("event_day", of_files.take(files.indices))


def _to_batch(rows: list[tuple[Any, ...]], source: Source) -> "pa.RecordBatch":
    import pyarrow as pa

    types = {"string": pa.string(), "bigint": pa.int64()}
    columns = parsed_columns(source)
    values = zip(zip(*rows, strict=True), columns.values(), strict=True)
    return pa.record_batch([pa.array(column, types[kind]) for column, kind in values], names=list(columns))


def parse_file(name: str, stream: BinaryIO, source: Source, *, refused: str | None = None) -> Iterator[ParsedRow]:
    """Yield line 0, about the file, and then its rows in order; an unreadable file has only a line 0 with an error.

    OSError passes through: that reading the bytes failed is not the file's fault.

    Args:
        refused: Why the file is not to be read; None: read it.
    """
    nothing = (None,) * len(source.columns)
    sha256 = checksum(stream)
    try:
        if refused is not None:
            raise InputError(refused)
        if file_day(source, name) is None:
            raise InputError(f"the file name has no day of the source as in {source.file_pattern}")
        counted = _require_readable(name, stream, source)
    except Exception as error:  # no bytes may stop a source
        if isinstance(error, OSError) and error.errno:
            raise
        yield ParsedRow(0, nothing, error=_reason(error), sha256=sha256)
        return
    yield ParsedRow(0, nothing, sha256=sha256, counted_rows=counted)
    yield from _read_rows(name, stream, source)


def _reason(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    text = text if isinstance(error, InputError) else f"not a readable file: {type(error).__name__}: {text}"
    return text.encode(errors="backslashreplace").decode()[:KEPT_BYTES]


def _require_readable(name: str, stream: BinaryIO, source: Source) -> int:
    """Raise InputError if the file is unreadable as a whole; returns its row count, from its bytes."""
    suffix = _suffix(name)
    stream.seek(0)
    counted = count_rows(stream, suffix)
    if suffix == "csv":
        require_header(stream, source)
    elif suffix == "parquet":
        require_declared_columns(parquet_column_names(stream), source)
        num_rows = sum(len(batch) for batch in text_batches(stream, column_names(source)))
        if num_rows != counted:
            raise InputError(f"the footer says {counted:,} rows and the file holds {num_rows:,}")
    return counted


def _read_rows(name: str, stream: BinaryIO, source: Source) -> Iterator[ParsedRow]:
    readers = {"csv": csv_rows, "jsonl": json_rows, "parquet": parquet_rows}
    return readers[_suffix(name)](stream, source)


def _suffix(name: str) -> str:
    return name.rsplit(".", 1)[-1]
