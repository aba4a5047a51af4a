"""Landing files as rows of text with line numbers, in bounded memory and whatever the bytes.

Parsing turns every file into rows of strings and leaves types to Spark, so that a value that does not fit its type
is a row in quarantine and not a failed job. A file is read three times: for its checksum, to count its rows and find
what makes the whole file unreadable, and for the rows, of which a bad one is a row with an error. `parse_files` runs in
Spark's workers and imports nothing of Spark.
"""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from forecache.errors import InputError
from forecache.lake.ingest.landing import file_day, open_landing
from forecache.lake.ingest.parsing_parquet import text_batches
from forecache.lake.ingest.row_count import MAX_ROW_BYTES, checksum, count_rows, lines
from forecache.pipeline import Source

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_PER_BATCH = 20_000
_BYTES_PER_BATCH = 8 << 20
_KEPT_BYTES = 1 << 16


@dataclass(frozen=True)
class ParsedRow:
    """One row of a landing file.

    Line 0 is about the file itself: its checksum, and how many rows it has by its bytes or why it cannot be read.
    """

    line: int
    values: tuple[str | None, ...]
    content: str | None = None
    error: str | None = None
    sha256: str | None = None
    counted_rows: int | None = None


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
    """Rows of the files named in the batches' `source_file` column, with `parsed_columns`.

    Args:
        refused: Files that are not read, with the reason.
    """
    names = [name for batch in batches for name in batch.column("source_file").to_pylist()]
    rows: list[tuple[Any, ...]] = []
    num_bytes = 0
    for name in names:
        with open_landing(uri, storage_options, name) as stream:
            for row in parse_file(name, stream, source, refused=refused.get(name)):
                rows.append((name, row.line, row.content, row.error, row.sha256, row.counted_rows, *row.values))
                num_bytes += len(row.content or "")
                if len(rows) >= _ROWS_PER_BATCH or num_bytes >= _BYTES_PER_BATCH:
                    yield _batch(rows, source)
                    rows, num_bytes = [], 0
    if rows:
        yield _batch(rows, source)


def _batch(rows: list[tuple[Any, ...]], source: Source) -> "pa.RecordBatch":
    import pyarrow as pa

    types = {"string": pa.string(), "bigint": pa.int64()}
    columns = parsed_columns(source)
    values = zip(zip(*rows, strict=True), columns.values(), strict=True)
    return pa.record_batch([pa.array(column, types[kind]) for column, kind in values], names=list(columns))


def parse_file(name: str, stream: BinaryIO, source: Source, *, refused: str | None = None) -> Iterator[ParsedRow]:
    """Line 0, about the file, and then its rows in order; an unreadable file has a line 0 with an error only.

    Args:
        stream: The file, seekable.
        refused: Why the file is not to be read, None where it is.

    Raises:
        OSError: The bytes could not be read at all, which says nothing about the file.
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
    yield from _rows(name, stream, source)


def _reason(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    text = text if isinstance(error, InputError) else f"not a readable file: {type(error).__name__}: {text}"
    return text.encode(errors="backslashreplace").decode()[:_KEPT_BYTES]


def _require_readable(name: str, stream: BinaryIO, source: Source) -> int:
    """Read the file once; returns how many rows it has by its bytes."""
    suffix = _suffix(name)
    stream.seek(0)
    counted = count_rows(stream, suffix)
    if suffix == "csv":
        _header(_records(stream), source)
    elif suffix == "parquet":
        _require_columns(_parquet_names(stream), source)
        num_rows = sum(len(batch) for batch in text_batches(stream, _names(source)))
        if num_rows != counted:
            raise InputError(f"the footer says {counted:,} rows and the file holds {num_rows:,}")
    return counted


def _rows(name: str, stream: BinaryIO, source: Source) -> Iterator[ParsedRow]:
    readers = {"csv": _csv_rows, "jsonl": _json_rows, "parquet": _parquet_rows}
    return readers[_suffix(name)](stream, source)


def _suffix(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _names(source: Source) -> list[str]:
    return [column.name for column in source.columns]


def _require_columns(found: Iterable[str], source: Source) -> None:
    found, names = list(found), _names(source)
    missing = [name for name in names if name not in found]
    if missing:
        raise InputError(f"the column {missing[0]!r} is missing")
    unknown = [name for name in found if name not in names]
    if unknown:
        raise InputError(f"the column {unknown[0]!r} is not declared by source {source.name!r}")
    if len(found) > len(names):
        twice = next(name for name in names if found.count(name) > 1)
        raise InputError(f"the column {twice!r} is there twice")


def _csv_rows(stream: BinaryIO, source: Source) -> Iterator[ParsedRow]:
    records = _records(stream)
    header = _header(records, source)
    order = [header.index(name) for name in _names(source)]
    nothing = (None,) * len(order)
    for line, text in records:
        if not text:
            continue
        try:
            fields = _fields(text)
            if len(fields) != len(header):
                raise InputError(f"the row has {len(fields)} fields, the header {len(header)}")
            yield ParsedRow(line, tuple(fields[i].strip() or None for i in order), text)
        except (InputError, csv.Error) as error:
            reason = str(error) if isinstance(error, InputError) else f"bad CSV row: {error}"
            yield ParsedRow(line, nothing, text, reason)


def _header(records: Iterator[tuple[int, str]], source: Source) -> list[str]:
    _, text = next(records, (0, ""))
    if not text:
        raise InputError("the file has no header")
    header = [name.strip() for name in _fields(text)]
    _require_columns(header, source)
    return header


def _fields(text: str) -> list[str]:
    return text.split(",") if '"' not in text else next(csv.reader([text], strict=True))


def _records(stream: BinaryIO) -> Iterator[tuple[int, str]]:
    """The first line's number and the text of each record, blank ones too; a quoted field may span lines."""
    stream.seek(0)
    first, parts = 1, list[str]()
    for number, (line, _) in enumerate(lines(stream), start=1):
        text = line.decode()
        if (parts or '"' in text) and _ends_in_quotes(text, in_quotes=bool(parts)):
            parts.append(text)
            continue
        text = "".join([*parts, text])
        yield first, text.removesuffix("\n").removesuffix("\r")
        first, parts = number + 1, []


def _ends_in_quotes(line: str, *, in_quotes: bool) -> bool:
    """Whether a quoted field is open where the line ends. A quote opens a field only as its first character."""
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


def _json_rows(stream: BinaryIO, source: Source) -> Iterator[ParsedRow]:
    names = _names(source)
    nothing = (None,) * len(names)
    stream.seek(0)
    for number, (line, num_bytes) in enumerate(lines(stream), start=1):
        if num_bytes > MAX_ROW_BYTES:
            text = line[:_KEPT_BYTES].decode(errors="replace")
            yield ParsedRow(number, nothing, text, f"the line has {num_bytes:,} bytes, more than {MAX_ROW_BYTES:,}")
        elif line.strip():
            text = line.decode().removesuffix("\n").removesuffix("\r")
            try:
                yield ParsedRow(number, _json_values(text, names, source), text)
            except RecursionError:
                yield ParsedRow(number, nothing, text, "bad JSON line: it is nested too deeply")
            except (InputError, ValueError) as error:
                yield ParsedRow(number, nothing, text, f"bad JSON line: {_escaped(str(error))}")


def _json_values(text: str, names: list[str], source: Source) -> tuple[str | None, ...]:
    record = json.loads(
        text, parse_float=str, parse_int=str, parse_constant=_no_constant, object_pairs_hook=_distinct_members
    )
    if not isinstance(record, dict):
        raise InputError("the line is not a JSON object")
    _require_columns(record, source)
    if any(isinstance(value, dict | list) for value in record.values()):
        # Nested values are kept as JSON text, with their numbers as numbers.
        nested = json.loads(text)
        record = {name: nested[name] if isinstance(v, dict | list) else v for name, v in record.items()}
    return tuple(_as_text(record[name]) for name in names)


def _no_constant(text: str) -> None:
    raise InputError(f"{text} is not JSON")


def _distinct_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        raise InputError(f"the member {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return record


def _as_text(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value)
    text.encode()  # half of a surrogate pair is no text
    return text


def _escaped(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _parquet_names(stream: BinaryIO) -> list[str]:
    import pyarrow.parquet as pq

    stream.seek(0)
    return list(pq.ParquetFile(stream).schema_arrow.names)


def _parquet_rows(stream: BinaryIO, source: Source) -> Iterator[ParsedRow]:
    nothing = (None,) * len(source.columns)
    line = 0
    for rows in text_batches(stream, _names(source)):
        for values, error in rows:
            line += 1
            content = ",".join("" if value is None else value for value in values)
            if len(content) > MAX_ROW_BYTES:
                content = content[:_KEPT_BYTES]
                error = f"the row has more than {MAX_ROW_BYTES:,} bytes"
            yield ParsedRow(line, nothing if error else values, content, error)
