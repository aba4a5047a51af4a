"""Rows of landing files (CSV, JSON lines, Parquet) as text with line numbers, in bounded memory, for any bytes.

Types are left to Spark, so that a value that does not fit its type is a row in quarantine and not a failed job. A file
is read three times: for its checksum, to count its rows and find out whether it is readable, and for the rows; a bad
one is a row with an error. `parse_files` runs in Spark's workers and imports nothing of Spark.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, BinaryIO

from forecache.base.errors import InputError
from forecache.declare import Source
from forecache.lake.ingest.landing import file_day, open_landing
from forecache.lake.ingest.row_count import MAX_ROW_BYTES, checksum, count_rows, read_lines

if TYPE_CHECKING:
    import pyarrow as pa


KEPT_BYTES = 1 << 16
"""The text of an unreadable row is cut to this length."""
TextRow = tuple[tuple[str | None, ...], str | None]
"""The values of a row, and its error or None."""
_MAX_BATCH_ROWS = 8192
_MAX_BATCH_BYTES = 32 << 20


@dataclass(frozen=True)
class ParsedRow:
    """One row of a landing file; line 0 is about the file: its checksum, and its row count or why it cannot be read."""

    line: int
    values: tuple[str | None, ...]
    content: str | None = None
    error: str | None = None
    sha256: str | None = None
    counted_rows: int | None = None


def column_names(source: Source) -> list[str]:
    """The columns that a source declares, in their order."""
    return [column.name for column in source.columns]


def require_declared_columns(found: Iterable[str], source: Source) -> None:
    """Raise InputError if a file's columns are not those that the source declares."""
    found, names = list(found), column_names(source)
    missing = [name for name in names if name not in found]
    if missing:
        raise InputError(f"the column {missing[0]!r} is missing")
    unknown = [name for name in found if name not in names]
    if unknown:
        raise InputError(f"the column {unknown[0]!r} is not declared by source {source.name!r}")
    if len(found) > len(names):
        twice = next(name for name in names if found.count(name) > 1)
        raise InputError(f"the column {twice!r} is there twice")


def escape_surrogates(text: str) -> str:
    """Escape lone surrogates, which UTF-8 cannot encode."""
    return text.encode(errors="backslashreplace").decode()


def csv_rows(stream: BinaryIO, source: Source) -> Iterator[ParsedRow]:
    """Yield the rows of a CSV file, each with the number of its first line."""
    records = _read_records(stream)
    header = _read_header(records, source)
    order = [header.index(name) for name in column_names(source)]
    nothing = (None,) * len(order)
    for line, text in records:
        if not text:
            continue
        try:
            fields = _split_fields(text)
            if len(fields) != len(header):
                raise InputError(f"the row has {len(fields)} fields, the header {len(header)}")
            yield ParsedRow(line, tuple(fields[i].strip() or None for i in order), text)
        except (InputError, csv.Error) as error:
            reason = str(error) if isinstance(error, InputError) else f"bad CSV row: {error}"
            yield ParsedRow(line, nothing, text, reason)


def require_header(stream: BinaryIO, source: Source) -> None:
    """Raise InputError if the header is not what the source declares."""
    _read_header(_read_records(stream), source)


def _read_header(records: Iterator[tuple[int, str]], source: Source) -> list[str]:
    _, text = next(records, (0, ""))
    if not text:
        raise InputError("the file has no header")
    header = [name.strip() for name in _split_fields(text)]
    require_declared_columns(header, source)
    return header


def _split_fields(text: str) -> list[str]:
    return text.split(",") if '"' not in text else next(csv.reader([text], strict=True))


def _read_records(stream: BinaryIO) -> Iterator[tuple[int, str]]:
    """Yield the first line's number and the text of each record, also of blank ones; a quoted field may span lines."""
    stream.seek(0)
    first, parts = 1, list[str]()
    for number, (line, _) in enumerate(read_lines(stream), start=1):
        text = line.decode()
        if (parts or '"' in text) and _ends_in_quotes(text, in_quotes=bool(parts)):
            parts.append(text)
            continue
        text = "".join([*parts, text])
        yield first, text.removesuffix("\n").removesuffix("\r")
        first, parts = number + 1, []


def _ends_in_quotes(line: str, *, in_quotes: bool) -> bool:
    """Return whether a quoted field is open at the line's end; a quote opens a field only as its first character."""
    at = 0
    while True:
        if in_quotes:
            while (at := line.find('"', at)) >= 0 and line.startswith('""', at):
                at += 2
            if at < 0:
                return True
            at = line.find(",", at)
        elif line.startswith('"', at):
            in_quotes, at = True, at + 1
            continue
        else:
            at = line.find(",", at)
        if at < 0:
            return False
        in_quotes, at = False, at + 1


def json_rows(stream: BinaryIO, source: Source) -> Iterator[ParsedRow]:
    """Yield the rows of a file of JSON lines, each with its line number."""
    names = column_names(source)
    nothing = (None,) * len(names)
    stream.seek(0)
    for number, (line, num_bytes) in enumerate(read_lines(stream), start=1):
        if num_bytes > MAX_ROW_BYTES:
            text = line[:KEPT_BYTES].decode(errors="replace")
            yield ParsedRow(number, nothing, text, f"the line has {num_bytes:,} bytes, more than {MAX_ROW_BYTES:,}")
        elif line.strip():
            text = line.decode().removesuffix("\n").removesuffix("\r")
            try:
                yield ParsedRow(number, _json_values(text, names, source), text)
            except RecursionError:
                yield ParsedRow(number, nothing, text, "bad JSON line: it is nested too deeply")
            except (InputError, ValueError) as error:
                yield ParsedRow(number, nothing, text, f"bad JSON line: {escape_surrogates(str(error))}")


def _json_values(text: str, names: Sequence[str], source: Source) -> tuple[str | None, ...]:
    record = json_record(text)
    require_declared_columns(record, source)
    return tuple(as_text(record[name]) for name in names)


def json_record(text: str) -> dict[str, Any]:
    """Parse a JSON object: top-level numbers stay text as written, those in nested values become numbers.

    InputError, ValueError or RecursionError if the text is not a JSON object, or has a member twice.
    """
    record = json.loads(
        text,
        parse_float=str,
        parse_int=str,
        parse_constant=_refuse_constant,
        object_pairs_hook=_require_distinct_members,
    )
    if not isinstance(record, dict):
        raise InputError("the line is not a JSON object")
    if any(isinstance(value, dict | list) for value in record.values()):
        # Nested values are later stored as JSON text.
        nested = json.loads(text)
        record = {name: nested[name] if isinstance(v, dict | list) else v for name, v in record.items()}
    return record


def _refuse_constant(text: str) -> None:
    raise InputError(f"{text} is not JSON")


def _require_distinct_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        raise InputError(f"the member {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return record


def as_text(value: Any) -> str | None:
    """A value of `json_record` as text; raises ValueError if it has half of a surrogate pair."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value)
    text.encode()
    return text


def text_batches(stream: BinaryIO, names: Sequence[str]) -> Iterator[list[TextRow]]:
    """Yield rows with the named columns, in order; a row whose text is not UTF-8 has an error, and its text escaped.

    InputError if a column is nested or has no text form; any error of Arrow for bytes that are not Parquet.
    """
    import pyarrow.parquet as pq

    stream.seek(0)
    file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20)
    schema = file.schema_arrow
    for name in names:
        _require_flat(name, schema.field(name).type)
    for batch in file.iter_batches(batch_size=_batch_rows(file.metadata), columns=list(names), use_threads=False):
        columns = [_to_texts(name, batch.column(name)) for name in names]
        yield [_to_text_row(names, values) for values in zip(*columns, strict=True)]


def _batch_rows(metadata: "pa.parquet.FileMetaData") -> int:
    sizes = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
    row_bytes = max(1, sum(sizes) // max(1, metadata.num_rows))
    return max(1, min(_MAX_BATCH_ROWS, _MAX_BATCH_BYTES // row_bytes))


def _require_flat(name: str, kind: "pa.DataType") -> None:
    import pyarrow as pa

    if pa.types.is_nested(kind):
        raise InputError(f"the column {name!r} is nested ({kind}), and a source's columns are not")


def _to_texts(name: str, column: "pa.Array") -> "list[str | bytes | None]":
    """The values as text; as bytes if they are not UTF-8."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return [_decode_if_utf8(value) for value in column.to_pylist()]
    try:
        return list(column.cast(pa.string()).to_pylist())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise InputError(
            f"the column {name!r} of type {column.type} has no text: {str(error).splitlines()[0]}"
        ) from None


def _decode_if_utf8(value: bytes | None) -> str | bytes | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return value


def _to_text_row(names: Sequence[str], values: "Sequence[str | bytes | None]") -> TextRow:
    bad = [name for name, value in zip(names, values, strict=True) if isinstance(value, bytes)]
    texts = tuple(value.decode(errors="backslashreplace") if isinstance(value, bytes) else value for value in values)
    return texts, f"{bad[0]} is not UTF-8 text" if bad else None


def parquet_column_names(stream: BinaryIO) -> list[str]:
    """Names of the columns of a Parquet file."""
    import pyarrow.parquet as pq

    stream.seek(0)
    return list(pq.ParquetFile(stream).schema_arrow.names)


def parquet_rows(stream: BinaryIO, source: Source) -> Iterator[ParsedRow]:
    """Yield the rows of a Parquet file, numbered from 1."""
    nothing = (None,) * len(source.columns)
    line = 0
    for rows in text_batches(stream, column_names(source)):
        for values, error in rows:
            line += 1
            content = ",".join("" if value is None else value for value in values)
            if len(content) > MAX_ROW_BYTES:
                content = content[:KEPT_BYTES]
                error = f"the row has more than {MAX_ROW_BYTES:,} bytes"
            yield ParsedRow(line, nothing if error else values, content, error)


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

    `refused` says why a file is not to be read. OSError passes through: that reading failed is not the file's fault.
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
    readers = {"csv": csv_rows, "jsonl": json_rows, "parquet": parquet_rows}
    yield from readers[_suffix(name)](stream, source)


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


def _suffix(name: str) -> str:
    return name.rsplit(".", 1)[-1]
