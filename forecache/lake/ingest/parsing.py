"""Rows of landing files (CSV, JSON lines, Parquet) as text with line numbers, one by one, for any bytes.

This is the careful way, for rows that `typed_rows` cannot vouch for. A row that cannot be read has an error.
"""

import csv
import json
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from forecache.base.errors import InputError
from forecache.declare import Source
from forecache.lake.ingest.row_count import MAX_ROW_BYTES, split_lines

if TYPE_CHECKING:
    import pyarrow as pa


KEPT_BYTES = 1 << 16
"""The text of an unreadable row is cut to this length."""
TextRow = tuple[tuple[str | None, ...], str | None]
"""The values of a row, and its error or None."""
_MAX_BATCH_ROWS = 1 << 16
_MAX_BATCH_BYTES = 32 << 20


@dataclass(frozen=True)
class ParsedRow:
    """One row of a landing file."""

    line: int
    values: tuple[str | None, ...]
    content: str
    error: str | None = None


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


class CsvHeader:
    """The header in the first lines of a CSV file, which ends at the place `end`; the line behind it is `next_line`.

    InputError if it is not what the source declares.
    """

    def __init__(self, content: bytes, source: Source) -> None:
        _, text = next(split_records(map(bytes.decode, split_lines(content)), 1), (0, ""))
        if not text:
            raise InputError("the file has no header")
        self.names = [name.strip() for name in _split_fields(text)]
        require_declared_columns(self.names, source)
        self._order = [self.names.index(name) for name in column_names(source)]
        self.next_line, self.end = text.count("\n") + 2, 0
        for _ in range(self.next_line - 1):
            self.end = content.find(b"\n", self.end) + 1 or len(content)

    def parse_row(self, line: int, text: str) -> ParsedRow:
        """Parse the text of a record that begins in a line."""
        try:
            fields = _split_fields(text)
            if len(fields) != len(self.names):
                raise InputError(f"the row has {len(fields)} fields, the header {len(self.names)}")
            return ParsedRow(line, tuple(fields[i].strip() or None for i in self._order), text)
        except (InputError, csv.Error) as error:
            reason = str(error) if isinstance(error, InputError) else f"bad CSV row: {error}"
            return ParsedRow(line, (None,) * len(self._order), text, reason)


def _split_fields(text: str) -> list[str]:
    return text.split(",") if '"' not in text else next(csv.reader([text], strict=True))


def split_records(lines: Iterable[str], first_line: int) -> Generator[tuple[int, str], None, str]:
    """Yield the first line's number and the text of each record, also of blank ones; a quoted field may span lines.

    Returns the lines of a record that does not end.
    """
    first, parts = first_line, list[str]()
    for number, text in enumerate(lines, start=first_line):
        if (parts or '"' in text) and _ends_in_quotes(text, in_quotes=bool(parts)):
            parts.append(text)
            continue
        yield first, "".join([*parts, text]).removesuffix("\n").removesuffix("\r")
        first, parts = number + 1, []
    return "".join(parts)


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


def parse_json_line(number: int, line: bytes, left_out: int, source: Source) -> ParsedRow | None:
    """Parse a line of a file of JSON lines, of whose end some bytes are left out; None if it is blank."""
    names, num_bytes = column_names(source), len(line) + left_out
    nothing = (None,) * len(names)
    if num_bytes > MAX_ROW_BYTES:
        text = line[:KEPT_BYTES].decode(errors="replace")
        return ParsedRow(number, nothing, text, f"the line has {num_bytes:,} bytes, more than {MAX_ROW_BYTES:,}")
    if not line.strip():
        return None
    text = line.decode().removesuffix("\n").removesuffix("\r")
    try:
        return ParsedRow(number, _json_values(text, names, source), text)
    except RecursionError:
        return ParsedRow(number, nothing, text, "bad JSON line: it is nested too deeply")
    except (InputError, ValueError) as error:
        return ParsedRow(number, nothing, text, f"bad JSON line: {escape_surrogates(str(error))}")


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


_MINUS_ZERO = re.compile(rb":\s*-0\s*[,}]")


def plain_json_record(text: bytes) -> dict[str, Any] | None:
    """Parse a JSON object whose values are surely those of their texts; None if `json_record` has to read it."""
    try:
        found = orjson.loads(text)
    except ValueError:
        return None
    if type(found) is not dict:
        return None
    # The number of quotes reveals a duplicate member; orjson reads -0 as the integer 0, but as a double it is -0.0.
    texts = sum(type(value) is str for value in found.values())
    if b"\\" in text or text.count(b'"') != 2 * (len(found) + texts) or _MINUS_ZERO.search(text):
        return None
    return found


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


def read_batches(stream: BinaryIO, names: Sequence[str]) -> "Iterator[pa.RecordBatch]":
    """Yield the rows of a Parquet file with the named columns, in order.

    InputError if a column is nested; any error of Arrow for bytes that are not Parquet.
    """
    import pyarrow.parquet as pq

    stream.seek(0)
    file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20)
    schema = file.schema_arrow
    for name in names:
        _require_flat(name, schema.field(name).type)
    for batch in file.iter_batches(batch_size=_batch_rows(file.metadata), columns=list(names), use_threads=False):
        yield batch.select(list(names))


def parse_batch(first_line: int, batch: "pa.RecordBatch") -> Iterator[ParsedRow]:
    """Yield the rows of `read_batches`; InputError if a column has no text form."""
    names = batch.schema.names
    columns = [_to_texts(name, batch.column(name)) for name in names]
    nothing = (None,) * len(names)
    for line, given in enumerate(zip(*columns, strict=True), start=first_line):
        values, error = _to_text_row(names, given)
        content = ",".join("" if value is None else value for value in values)
        if len(content) > MAX_ROW_BYTES:
            content = content[:KEPT_BYTES]
            error = f"the row has more than {MAX_ROW_BYTES:,} bytes"
        yield ParsedRow(line, nothing if error else values, content, error)


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
    return list(_cast_to_texts(name, column).to_pylist())


def _cast_to_texts(name: str, column: "pa.Array") -> "pa.Array":
    import pyarrow as pa

    try:
        return column.cast(pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise InputError(
            f"the column {name!r} of type {column.type} has no text: {str(error).splitlines()[0]}"
        ) from None


def require_texts(name: str, column: "pa.Array") -> None:
    """Raise InputError if values of a column have no text."""
    import pyarrow.types as types

    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    texts = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    if not any(is_kind(kind) for is_kind in (*texts, types.is_integer, types.is_floating, types.is_date)):
        _cast_to_texts(name, column.dictionary_decode() if types.is_dictionary(column.type) else column)


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


def suffix_of(name: str) -> str:
    """The format of a file: csv, jsonl or parquet."""
    return name.rsplit(".", 1)[-1]
