"""Counting the rows of a landing file from its bytes, and finding files that are unreadable as a whole.

The count is independent of columns and types and shares no code with the parser: CSV records are counted by Python's
csv module in its lenient mode (the parser finds their ends itself), JSON lines by their newlines, Parquet rows by
the footer. Ingestion records this count, and the reconciliation compares the tables with it.
"""

import csv
import hashlib
from collections.abc import Iterator
from typing import BinaryIO

from forecache.base.errors import InputError

MAX_ROW_BYTES = 1 << 20
"""A longer row is not kept in memory: a JSON line is then a bad row, a CSV record makes the whole file unreadable."""
BOM = b"\xef\xbb\xbf"
_BLOCK_BYTES = 1 << 20
_END = "\x01 end"


def checksum(stream: BinaryIO) -> str:
    """SHA-256 of a stream, from its position to its end."""
    digest = hashlib.sha256()
    while block := stream.read(_BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()


def read_lines(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield lines, which only "\n" ends, without a byte order mark, cut to MAX_ROW_BYTES; and the bytes of each."""
    head = stream.read(len(BOM))
    stream.seek(0 if head != BOM else len(BOM))
    while line := stream.readline(MAX_ROW_BYTES):
        num_bytes = len(line)
        rest = line
        while num_bytes >= MAX_ROW_BYTES and not rest.endswith(b"\n") and (rest := stream.readline(_BLOCK_BYTES)):
            num_bytes += len(rest)
        yield line, num_bytes


def count_rows(stream: BinaryIO, suffix: str) -> int:
    """Count the rows of a CSV (without its header), JSON lines or Parquet file; the stream is read from its start.

    InputError says why the whole file cannot be read: it is empty, not UTF-8, or its structure is broken.
    """
    if not stream.read(1):
        raise InputError("the file is empty")
    stream.seek(0)
    counters = {"csv": _count_csv, "jsonl": _count_json_lines, "parquet": _count_parquet}
    if suffix not in counters:
        raise InputError(f"the format .{suffix} is not one of {', '.join(counters)}")
    return counters[suffix](stream)


def _count_csv(stream: BinaryIO) -> int:
    record_bytes, line_number, first_line = 0, 0, 1

    def read_texts() -> Iterator[str]:
        nonlocal record_bytes, line_number
        for line, num_bytes in read_lines(stream):
            line_number += 1
            record_bytes += num_bytes
            if record_bytes > MAX_ROW_BYTES:
                raise InputError(
                    f"the row that begins on line {first_line} has more than {MAX_ROW_BYTES:,} bytes: "
                    "a quote may be missing"
                )
            _require_utf8(line, line_number)
            text = line.removesuffix(b"\n").removesuffix(b"\r").decode("latin-1")
            # The csv module would end a record at a carriage return, and stop at a null character.
            # With its end of line: otherwise an open quote before blank lines would look like a complete record.
            yield text.replace("\r", "_").replace("\0", "_") + "\n"
        yield _END

    csv.field_size_limit(2 * MAX_ROW_BYTES)
    has_header, num_rows, fields = False, 0, list[str]()
    for fields in csv.reader(read_texts()):
        if not has_header and fields in ([], [_END]):
            raise InputError("the file has no header")
        num_rows += bool(fields)
        has_header, record_bytes, first_line = True, 0, line_number + 1
    if fields != [_END]:
        raise InputError("the last quoted field never ends: unexpected end of data")
    return num_rows - 2


def _count_json_lines(stream: BinaryIO) -> int:
    num_rows = 0
    for number, (line, num_bytes) in enumerate(read_lines(stream), start=1):
        if num_bytes <= MAX_ROW_BYTES:
            _require_utf8(line, number)
        num_rows += bool(line.strip()) or num_bytes > MAX_ROW_BYTES
    if _is_only_a_byte_order_mark(stream):
        raise InputError("the file is empty")
    return num_rows


def _is_only_a_byte_order_mark(stream: BinaryIO) -> bool:
    """Return whether the file has a byte order mark and nothing else."""
    stream.seek(0)
    return stream.read(len(BOM) + 1) == BOM


def _count_parquet(stream: BinaryIO) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(stream).num_rows)


def _require_utf8(line: bytes, number: int) -> None:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"line {number} is not UTF-8: can't decode byte {error.object[error.start]:#04x}") from None
