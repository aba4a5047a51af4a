"""The rows of a Parquet file as text, batch by batch."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

from forecache.base.errors import InputError
from forecache.declare import Source
from forecache.lake.ingest.formats.parsed_row import KEPT_BYTES, ParsedRow, column_names
from forecache.lake.ingest.row_count import MAX_ROW_BYTES

if TYPE_CHECKING:
    import pyarrow as pa

TextRow = tuple[tuple[str | None, ...], str | None]
"""The values of a row, and its error or None."""
_MAX_BATCH_ROWS = 8192
_MAX_BATCH_BYTES = 32 << 20


def text_batches(stream: BinaryIO, names: Sequence[str]) -> Iterator[list[TextRow]]:
    """Yield rows with the named columns, in order; a row whose text is not UTF-8 has an error, and its text escaped.

    Raises:
        InputError: A column is nested or of a type that has no text form.
        Exception: Any error of Arrow for bytes that are not Parquet.
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
