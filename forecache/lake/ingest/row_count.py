"""Counting the rows of a landing file from its bytes, and finding files that are unreadable as a whole.

The count is independent of columns and types, and of the parser: CSV records are counted by their line ends where no
quote is open, and by Python's csv module in its lenient mode where quotes are unusual (the parser finds their ends
itself), JSON lines by their newlines, Parquet rows by the footer. Ingestion records this count, and the reconciliation
compares the tables with it.
"""

import csv
import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, BinaryIO

from forecache.base.errors import InputError

if TYPE_CHECKING:
    import numpy as np

MAX_ROW_BYTES = 1 << 20
"""A longer row is not kept in memory: a JSON line is then a bad row, a CSV record makes the whole file unreadable."""
BOM = b"\xef\xbb\xbf"
PIECE_BYTES = 4 << 20
_SMALL_PIECE_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 20
_NEWLINE = ord("\n")
_END = "\x01 end"
_BLANKS = (b"\n\n", b"\n\r", b"\n ", b"\n\t", b"\n\x0b", b"\n\x0c")
# Otherwise a quoted field of more than 128 KiB would be an error.
csv.field_size_limit(2 * MAX_ROW_BYTES)


def checksum(stream: BinaryIO) -> str:
    """SHA-256 of a stream, from its position to its end."""
    return HashedStream(stream).read_checksum()


class HashedStream:
    """A stream that is read once, with the checksum of all that was read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._digest = stream, hashlib.sha256()
        self._checksum: str | None = None

    def read(self, num_bytes: int) -> bytes:
        block = self._stream.read(num_bytes)
        self._digest.update(block)
        return block

    def readline(self, num_bytes: int) -> bytes:
        line = self._stream.readline(num_bytes)
        self._digest.update(line)
        return line

    def read_checksum(self) -> str:
        """SHA-256 of the whole stream; its rest is read."""
        if self._checksum is None:
            while self.read(_BLOCK_BYTES):
                pass
            self._checksum = self._digest.hexdigest()
        return self._checksum


class Piece:
    """Some whole lines of a file, which only "\n" ends.

    The file's last line may lack its newline. A line that is too long is a piece, and its end is left out.
    """

    def __init__(self, content: bytes, left_out: int = 0) -> None:
        self.content, self.left_out = content, left_out  # bytes

    @cached_property
    def line_ends(self) -> "np.ndarray":
        """The places of the newlines; of a last line without one, the end of the content."""
        import numpy as np

        ends = np.flatnonzero(np.frombuffer(self.content, np.uint8) == _NEWLINE)
        return ends if self.content.endswith(b"\n") or not self.content else np.append(ends, len(self.content))

    @property
    def num_lines(self) -> int:
        return len(self.line_ends)

    @cached_property
    def is_utf8(self) -> bool:
        try:
            return self.content.isascii() or bool(self.content.decode())
        except UnicodeDecodeError:
            return False

    @cached_property
    def has_long_line(self) -> bool:
        """Tell whether a line has more than MAX_ROW_BYTES."""
        import numpy as np

        if len(self.content) <= MAX_ROW_BYTES:
            return False
        return int(np.diff(self.line_ends, prepend=-1).max()) > MAX_ROW_BYTES

    @cached_property
    def has_plain_records(self) -> bool:
        """Tell whether each line of a piece of CSV, which begins with a record, is surely a record.

        Quotes only enclose whole fields within a line, and only "\n" and "\r\n" end lines, of at most MAX_ROW_BYTES.
        """
        content = self.content
        if content.startswith(BOM) or self.has_long_line:
            return False
        if b"\r" in content and content.count(b"\r") != content.count(b"\r\n"):
            return False
        return b'"' not in content or self._encloses_fields()

    def _encloses_fields(self) -> bool:
        """Return whether quotes come in pairs, before the first and behind the last character of a field of a line."""
        import numpy as np

        codes = np.frombuffer(self.content, np.uint8)
        quotes = np.flatnonzero(codes == ord('"'))
        if len(quotes) % 2:
            return False
        opening, closing = quotes[0::2], quotes[1::2]
        before = np.where(opening == 0, _NEWLINE, codes[opening - 1])
        behind = np.append(codes, _NEWLINE)[closing + 1]
        return bool(
            np.isin(before, list(b",\n")).all()
            and np.isin(behind, list(b",\r\n")).all()
            and (np.searchsorted(self.line_ends, opening) == np.searchsorted(self.line_ends, closing)).all()
        )

    @cached_property
    def lines(self) -> "tuple[np.ndarray, np.ndarray]":
        """The places at which the lines begin, and those at which they end without their line ends."""
        import numpy as np

        ends = self.line_ends
        starts = np.append(0, ends[:-1] + 1)
        if b"\r" in self.content:
            codes = np.frombuffer(self.content, np.uint8)
            ends = ends - ((ends > starts) & (codes[ends - 1] == ord("\r")))
        return starts, ends

    def count_empty_lines(self) -> int:
        starts, ends = self.lines
        return int((starts == ends).sum())

    @cached_property
    def parts(self) -> "list[Piece]":
        """Small pieces, of which this one consists."""
        parts, start = [], 0
        while start < len(self.content):
            end = self.content.find(b"\n", start + _SMALL_PIECE_BYTES) + 1 or len(self.content)
            parts.append(Piece(self.content[start:end]))
            start = end
        return parts


def read_pieces(stream: "BinaryIO | HashedStream") -> Iterator[Piece]:
    """Yield a stream from its start on in pieces, without a byte order mark."""
    rest, is_start = b"", True
    while block := stream.read(PIECE_BYTES):
        if is_start:
            block, is_start = block.removeprefix(BOM), False
        end = block.rfind(b"\n") + 1
        if end:
            yield Piece(rest + block[:end])
            rest = block[end:]
            continue
        rest += block
        if len(rest) > PIECE_BYTES:
            yield Piece(rest, left_out=sum(map(len, _rest_of_line(stream))))
            rest = b""
    if rest:
        yield Piece(rest)


def _rest_of_line(stream: "BinaryIO | HashedStream") -> Iterator[bytes]:
    while part := stream.readline(PIECE_BYTES):
        yield part
        if part.endswith(b"\n"):
            return


def count_lines(content: bytes) -> int:
    """Count lines, also one at the end without a newline."""
    return content.count(b"\n") + (not content.endswith(b"\n") and bool(content))


def count_rows(stream: BinaryIO, suffix: str) -> int:
    """Count the rows of a CSV (without its header), JSON lines or Parquet file; the stream is read from its start.

    InputError says why the whole file cannot be read: it is empty, not UTF-8, or its structure is broken.
    """
    require_format(stream, suffix)
    if suffix == "parquet":
        return _count_parquet(stream)
    count = TEXT_COUNTS[suffix]()
    for piece in read_pieces(stream):
        count.add(piece)
    return count.finish()


def require_format(stream: BinaryIO, suffix: str) -> None:
    """Raise InputError if a file is empty, or of an unknown format; the stream is at its start then."""
    stream.seek(0)
    if not stream.read(1):
        raise InputError("the file is empty")
    stream.seek(0)
    if suffix not in (*TEXT_COUNTS, "parquet"):
        raise InputError(f"the format .{suffix} is not one of {', '.join((*TEXT_COUNTS, 'parquet'))}")


class TextRowCount:
    """The rows in pieces of a file; InputError if its bytes are unreadable as a whole."""

    def __init__(self) -> None:
        self._num_rows, self._first_line = 0, 1

    def add(self, piece: Piece) -> None:
        raise NotImplementedError

    def finish(self) -> int:
        """The number of rows, after all pieces."""
        raise NotImplementedError


class CsvRowCount(TextRowCount):
    def __init__(self) -> None:
        super().__init__()
        self._unread, self._next_size = b"", 0  # lines of a record that does not end, and when it is looked at again

    def add(self, piece: Piece) -> None:
        if self._first_line == 1 and not self._unread and piece.content.startswith((b"\n", b"\r\n")):
            raise InputError("the file has no header")
        is_plain = not self._unread and piece.has_plain_records
        for part in [piece] if is_plain else piece.parts:
            if not self._unread and part.has_plain_records and part.is_utf8:
                self._num_rows += part.num_lines - part.count_empty_lines()
                self._first_line += part.num_lines
            else:
                self._add_unusual(part.content)

    def _add_unusual(self, content: bytes) -> None:
        self._unread += content
        if len(self._unread) < self._next_size:
            return
        found, is_open = _count_records(self._unread, self._first_line)
        self._next_size = 2 * len(self._unread) if is_open else 0
        if not is_open:
            self._num_rows += found
            self._first_line += count_lines(self._unread)
            self._unread = b""

    def finish(self) -> int:
        if self._first_line == 1 and not self._unread:
            raise InputError("the file has no header")
        if self._unread:
            found, is_open = _count_records(self._unread, self._first_line)
            if is_open:
                raise InputError("the last quoted field never ends: unexpected end of data")
            self._num_rows += found
        return self._num_rows - 1


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


class JsonLinesCount(TextRowCount):
    def add(self, piece: Piece) -> None:
        content = piece.content
        is_blank = content[:1].isspace() or any(blank in content for blank in _BLANKS)
        if is_blank or piece.has_long_line or not piece.is_utf8:
            self._num_rows += _count_filled_lines(content, self._first_line)
        else:
            self._num_rows += piece.num_lines
        self._first_line += piece.num_lines

    def finish(self) -> int:
        if self._first_line == 1:
            raise InputError("the file is empty")
        return self._num_rows


TEXT_COUNTS: Mapping[str, type[TextRowCount]] = {"csv": CsvRowCount, "jsonl": JsonLinesCount}


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
