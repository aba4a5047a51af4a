"""Counting the rows of a landing file from its bytes, and finding files that are unreadable as a whole.

The count is independent of columns and types, and of the parser: CSV records are counted by their line ends where no
quote is open, and by Python's csv module in its lenient mode where quotes are unusual (the parser finds their ends
itself), JSON lines by their newlines, Parquet rows by the footer. Ingestion records this count, and the reconciliation
compares the tables with it.
"""

import csv
import hashlib
from collections.abc import Iterator
from typing import BinaryIO

from forecache.base.errors import InputError

MAX_ROW_BYTES = 1 << 20
"""A longer row is not kept in memory: a JSON line is then a bad row, a CSV record makes the whole file unreadable."""
BOM = b"\xef\xbb\xbf"
PIECE_BYTES = 4 << 20
_SMALL_PIECE_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 20
_END = "\x01 end"
_BLANKS = (b"\n\n", b"\n\r", b"\n ", b"\n\t", b"\n\x0b", b"\n\x0c")
# Otherwise a quoted field of more than 128 KiB would be an error.
csv.field_size_limit(2 * MAX_ROW_BYTES)


def checksum(stream: BinaryIO) -> str:
    """SHA-256 of a stream, from its position to its end."""
    digest = hashlib.sha256()
    while block := stream.read(_BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()


def skip_byte_order_mark(stream: BinaryIO) -> None:
    """Go to the start of a stream's text."""
    stream.seek(0)
    stream.seek(0 if stream.read(len(BOM)) != BOM else len(BOM))


def read_lines(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield lines, which only "\n" ends, without a byte order mark, cut to MAX_ROW_BYTES; and the bytes of each."""
    skip_byte_order_mark(stream)
    while line := stream.readline(MAX_ROW_BYTES):
        num_bytes = len(line)
        rest = line
        while num_bytes >= MAX_ROW_BYTES and not rest.endswith(b"\n") and (rest := stream.readline(_BLOCK_BYTES)):
            num_bytes += len(rest)
        yield line, num_bytes


def read_pieces(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield the bytes from a stream's position on in pieces of whole lines; the last one may lack its newline.

    A line that is longer than a piece ends its piece and is cut; the number is that of the bytes that were left out.
    """
    rest = b""
    while block := stream.read(PIECE_BYTES):
        end = block.rfind(b"\n") + 1
        if end:
            yield rest + block[:end], 0
            rest = block[end:]
            continue
        rest += block
        if len(rest) > PIECE_BYTES:
            left_out = sum(map(len, _rest_of_line(stream)))
            yield rest, left_out
            rest = b""
    if rest:
        yield rest, 0


def _rest_of_line(stream: BinaryIO) -> Iterator[bytes]:
    while part := stream.readline(PIECE_BYTES):
        yield part
        if part.endswith(b"\n"):
            return


def split_piece(piece: bytes) -> Iterator[bytes]:
    """Split a piece into small ones of whole lines."""
    start = 0
    while start < len(piece):
        end = piece.find(b"\n", start + _SMALL_PIECE_BYTES) + 1 or len(piece)
        yield piece[start:end]
        start = end


def has_plain_records(piece: bytes) -> bool:
    """Return whether each line of a piece of CSV, which begins with a record, is surely a record.

    Quotes only enclose whole fields within a line, and only "\n" and "\r\n" end lines, of at most MAX_ROW_BYTES.
    """
    if piece.startswith(BOM) or piece.count(b"\r") != piece.count(b"\r\n") or _has_long_line(piece):
        return False
    return b'"' not in piece or _encloses_fields(piece)


def _has_long_line(piece: bytes) -> bool:
    start = 0
    while len(piece) - start > MAX_ROW_BYTES:
        end = piece.rfind(b"\n", start, start + MAX_ROW_BYTES) + 1
        if not end:
            return True
        start = end
    return False


def _encloses_fields(piece: bytes) -> bool:
    """Return whether quotes come in pairs, before the first and behind the last character of a field of one line."""
    import numpy as np

    codes = np.frombuffer(piece, np.uint8)
    quotes = np.flatnonzero(codes == ord('"'))
    if len(quotes) % 2:
        return False
    opening, closing = quotes[0::2], quotes[1::2]
    before = np.where(opening == 0, ord("\n"), codes[opening - 1])
    behind = np.append(codes, ord("\n"))[closing + 1]
    ends = np.flatnonzero(codes == ord("\n"))
    return bool(
        np.isin(before, list(b",\n")).all()
        and np.isin(behind, list(b",\r\n")).all()
        and (np.searchsorted(ends, opening) == np.searchsorted(ends, closing)).all()
    )


def count_lines(piece: bytes) -> int:
    """Count the lines of a piece, also one at its end without a newline."""
    return piece.count(b"\n") + (not piece.endswith(b"\n") and bool(piece))


def count_rows(stream: BinaryIO, suffix: str) -> int:
    """Count the rows of a CSV (without its header), JSON lines or Parquet file; the stream is read from its start.

    InputError says why the whole file cannot be read: it is empty, not UTF-8, or its structure is broken.
    """
    stream.seek(0)
    if not stream.read(1):
        raise InputError("the file is empty")
    stream.seek(0)
    counters = {"csv": _count_csv, "jsonl": _count_json_lines, "parquet": _count_parquet}
    if suffix not in counters:
        raise InputError(f"the format .{suffix} is not one of {', '.join(counters)}")
    return counters[suffix](stream)


def _count_csv(stream: BinaryIO) -> int:
    skip_byte_order_mark(stream)
    num_records, first_line, unread, next_size = 0, 1, b"", 0
    for piece, _ in read_pieces(stream):
        is_plain = not unread and has_plain_records(piece)
        for part in (piece,) if is_plain else split_piece(piece):
            if first_line == 1 and not unread:
                _require_header_line(part)
            if not unread and (is_plain or has_plain_records(part)) and _is_utf8(part):
                num_records += count_lines(part) - _count_empty_lines(part)
                first_line += count_lines(part)
                continue
            unread += part
            if len(unread) < next_size:
                continue
            found, is_open = _count_records(unread, first_line)
            next_size = 2 * len(unread) if is_open else 0
            if not is_open:
                num_records += found
                first_line += count_lines(unread)
                unread = b""
    if first_line == 1 and not unread:
        raise InputError("the file has no header")
    if unread:
        found, is_open = _count_records(unread, first_line)
        if is_open:
            raise InputError("the last quoted field never ends: unexpected end of data")
        num_records += found
    return num_records - 1


def _require_header_line(part: bytes) -> None:
    if part.startswith((b"\n", b"\r\n")):
        raise InputError("the file has no header")


def _count_empty_lines(part: bytes) -> int:
    if b"\n\n" not in part and b"\n\r\n" not in part and not part.startswith((b"\n", b"\r\n")):
        return 0
    return sum(not line.removesuffix(b"\r") for line in part.removesuffix(b"\n").split(b"\n"))


def _is_utf8(part: bytes) -> bool:
    try:
        return part.isascii() or bool(part.decode())
    except UnicodeDecodeError:
        return False


def _count_records(content: bytes, first_line: int) -> tuple[int, bool]:
    """Count CSV records in lines that begin with one; True if the last one is still in quotes.

    InputError if a line is not UTF-8, or a record is too long.
    """
    record_bytes, line_number, record_line = 0, first_line - 1, first_line

    def read_texts() -> Iterator[str]:
        nonlocal record_bytes, line_number
        for line in split_lines(content):
            line_number += 1
            record_bytes += len(line)
            if record_bytes > MAX_ROW_BYTES:
                raise InputError(
                    f"the row that begins on line {record_line} has more than {MAX_ROW_BYTES:,} bytes: "
                    "a quote may be missing"
                )
            _require_utf8(line, line_number)
            text = line.removesuffix(b"\n").removesuffix(b"\r").decode("latin-1")
            # The csv module would end a record at a carriage return, and stop at a null character.
            # With its end of line: otherwise an open quote before blank lines would look like a complete record.
            yield text.replace("\r", "_").replace("\0", "_") + "\n"
        yield _END

    num_records, fields = 0, list[str]()
    for fields in csv.reader(read_texts()):
        num_records += bool(fields)
        record_bytes, record_line = 0, line_number + 1
    return num_records - 1, fields != [_END]


def split_lines(content: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(content):
        end = content.find(b"\n", start) + 1 or len(content)
        yield content[start:end]
        start = end


def _count_json_lines(stream: BinaryIO) -> int:
    skip_byte_order_mark(stream)
    num_rows, first_line = 0, 1
    for piece, _ in read_pieces(stream):
        if _has_long_line(piece) or piece[:1].isspace() or any(b in piece for b in _BLANKS) or not _is_utf8(piece):
            num_rows += _count_filled_lines(piece, first_line)
        else:
            num_rows += count_lines(piece)
        first_line += count_lines(piece)
    if first_line == 1:
        raise InputError("the file is empty")
    return num_rows


def _count_filled_lines(piece: bytes, first_line: int) -> int:
    num_rows = 0
    for number, line in enumerate(split_lines(piece), start=first_line):
        if len(line) <= MAX_ROW_BYTES:
            _require_utf8(line, number)
        num_rows += bool(line.strip()) or len(line) > MAX_ROW_BYTES
    return num_rows


def _count_parquet(stream: BinaryIO) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(stream).num_rows)


def _require_utf8(line: bytes, number: int) -> None:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"line {number} is not UTF-8: can't decode byte {error.object[error.start]:#04x}") from None
