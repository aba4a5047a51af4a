"""Pieces of a CSV file to judged rows: by Arrow's reader, if their records are surely known, else row by row."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.base.errors import InputError
from forecache.declare import Source
from forecache.lake.ingest.parsing import CsvHeader, ParsedRow, split_records
from forecache.lake.ingest.row_count import BOM, MAX_ROW_BYTES, Piece, count_lines, split_lines
from forecache.lake.ingest.typed_rows import TYPES, Converted, JudgedRows, RowJudge, Scan, TextScan, Work, convert_texts


class CsvScan(TextScan):
    """Turns the pieces of a CSV file to work, in order."""

    def __init__(self, judge: RowJudge, *, careful: bool) -> None:
        super().__init__(judge, careful=careful)
        self._header: CsvHeader | None = None
        self._unread = b""  # lines of a record that has not ended
        self._forms = CsvForms(judge.source)

    def read_piece(self, piece: Piece) -> Scan:
        """Yield the work on a piece; InputError if the file's header is wrong."""
        if self._header is None:
            self._header = CsvHeader(piece.content, self._judge.source)
            self._first_line = self._header.next_line
            piece = Piece(piece.content[self._header.end :])
            if not piece.content:
                return
        work = self._read_plain(piece, self._header)
        if work is not None:
            yield work
            return
        for part in piece.parts:
            yield self._read_plain(part, self._header) or self._parse(part.content, self._header)

    def _read_plain(self, piece: Piece, header: CsvHeader) -> Work | None:
        """The work on the records that end in a piece; None if they have to be parsed one by one."""
        if self._careful:
            return None
        is_plain = not self._unread and piece.has_plain_records
        records = Records.of_lines(piece) if is_plain else Records.with_quotes(self._unread + piece.content)
        if records is None:
            return None
        work = partial(_judge_plain_csv, records, self._first_line, header, self._judge, self._forms)
        self._first_line += records.num_lines
        self._unread = records.unread
        return work

    def _parse(self, part: bytes, header: CsvHeader) -> Work:
        content = self._unread + part
        rows, self._unread = _parse_records(content, self._first_line, header)
        if len(self._unread) > MAX_ROW_BYTES:
            raise InputError(f"a row has more than {MAX_ROW_BYTES:,} bytes")
        self._first_line += count_lines(content) - count_lines(self._unread)
        return partial(self._judge.judge_rows, rows)

    def finish(self) -> None:
        assert not self._unread, "a file whose last record does not end is not readable"


@dataclass(frozen=True)
class Records:
    """Whole records of CSV: quotes only enclose whole fields.

    Attributes:
        starts, ends: The places at which they begin, and at which they end without their line ends.
        lines: The number of lines before each.
        num_lines: The number of lines of all.
        unread: The lines behind them, of a record that does not end.
    """

    content: bytes
    starts: np.ndarray
    ends: np.ndarray
    lines: np.ndarray
    num_lines: int
    unread: bytes = b""

    @staticmethod
    def of_lines(piece: Piece) -> "Records":
        """Take each line as a record, as it is if `Piece.has_plain_records`."""
        starts, ends = piece.lines
        return Records(piece.content, starts, ends, np.arange(len(starts)), len(starts))

    @staticmethod
    def with_quotes(content: bytes) -> "Records | None":
        """Find records with quoted fields, which may span lines; None if one has to be parsed by itself."""
        piece = Piece(content)
        if content.startswith(BOM) or not piece.is_utf8 or content.count(b"\r") != content.count(b"\r\n"):
            return None
        codes = np.frombuffer(content, np.uint8)
        quotes = np.flatnonzero(codes == ord('"'))
        before = np.where(quotes == 0, ord("\n"), codes[quotes - 1])[0::2]
        behind = np.append(codes, ord("\n"))[quotes + 1][1::2]
        if not np.isin(before, list(b",\n")).all() or not np.isin(behind, list(b",\r\n")).all():
            return None
        whole = np.flatnonzero(np.searchsorted(quotes, piece.line_ends) % 2 == 0)
        if not len(whole):
            return None
        line_ends = piece.line_ends[whole]
        starts = np.append(0, line_ends[:-1] + 1)
        end = min(int(line_ends[-1]) + 1, len(content))
        if max(int(np.diff(line_ends, prepend=-1).max()), len(content) - end) > MAX_ROW_BYTES:
            return None
        ends = line_ends - ((line_ends > starts) & (codes[line_ends - 1] == ord("\r")))
        lines = np.append(0, whole[:-1] + 1)
        return Records(content[:end], starts, ends, lines, int(whole[-1]) + 1, content[end:])


def _parse_records(content: bytes, first_line: int, header: CsvHeader) -> tuple[list[ParsedRow], bytes]:
    """Parse records one by one; returns them, and the lines of a last one that does not end."""
    rows = list[ParsedRow]()
    records = split_records(map(bytes.decode, split_lines(content)), first_line)
    while True:
        try:
            line, text = next(records)
        except StopIteration as end:
            return rows, end.value.encode()
        if text:
            rows.append(header.parse_row(line, text))


class CsvForms:
    """The types as which Arrow reads the columns of a file; as texts those that it could not read in the last piece.

    What it reads as a column's type has the value that `cast.cast` gives, but for hexadecimal integers.
    """

    def __init__(self, source: Source) -> None:
        self._typed: dict[str, pa.DataType] = {column.name: TYPES[column.type] for column in source.columns}
        for column in source.columns:
            if column.type == "timestamp":
                self._typed[column.name] = pa.timestamp("us")
        self._next = dict(self._typed)

    def choose(self, content: bytes) -> dict[str, pa.DataType]:
        """The types for a piece."""
        chosen = dict(self._next)
        if (b"x" in content or b"X" in content) and _has_hexadecimal(content):
            chosen = {name: pa.string() if pa.types.is_integer(kind) else kind for name, kind in chosen.items()}
        return chosen

    def fall_back(self, chosen: dict[str, pa.DataType], names: Sequence[str], error: pa.ArrowInvalid) -> None:
        """Choose text for the column of an error, or for all if it names none."""
        found = _COLUMN.search(str(error))
        chosen.update(dict.fromkeys([names[int(found[1])]] if found else names, pa.string()))

    def keep(self, chosen: Mapping[str, pa.DataType], sure: Collection[str]) -> None:
        """Keep the types that a piece was read as, for the next ones; `sure` are columns without an odd value."""
        self._next = {name: self._typed[name] if name in sure else kind for name, kind in chosen.items()}


def _has_hexadecimal(content: bytes) -> bool:
    codes = np.frombuffer(content, np.uint8)
    places = np.flatnonzero((codes | 0x20) == ord("x"))
    return bool((codes[np.maximum(places - 1, 0)] == ord("0")).any())


_COLUMN = re.compile(r"CSV column #([0-9]+)")


def _read_plain_csv(
    content: bytes, names: Sequence[str], forms: CsvForms, *, has_line_ends: bool
) -> tuple[pa.Table, dict[str, pa.DataType], list[int]]:
    """Read records of CSV, which may have line ends in quotes if `has_line_ends`.

    Returns the columns, what they were read as, and those records, counted from 0, that have another number of fields.
    """
    import pyarrow.csv as pcsv

    wrong = list[int]()

    def skip(row: pcsv.InvalidRow) -> str:
        wrong.append(row.number - 1)
        return "skip"

    chosen = forms.choose(content)
    while True:
        wrong.clear()
        try:
            return (
                pcsv.read_csv(
                    pa.BufferReader(content),
                    pcsv.ReadOptions(use_threads=False, column_names=names, block_size=len(content) + 1),
                    pcsv.ParseOptions(
                        quote_char='"' if b'"' in content else False,
                        double_quote=False,
                        newlines_in_values=has_line_ends,
                        invalid_row_handler=skip,
                    ),
                    pcsv.ConvertOptions(column_types=chosen, null_values=[""], strings_can_be_null=True),
                ),
                chosen,
                wrong,
            )
        except pa.ArrowInvalid as error:
            if all(pa.types.is_string(kind) for kind in chosen.values()):
                raise
            forms.fall_back(chosen, names, error)


def _judge_plain_csv(
    records: Records, first_line: int, header: CsvHeader, judge: RowJudge, forms: CsvForms
) -> JudgedRows:
    """Judge records of CSV, some of which may be empty."""
    starts, ends, has_long = records.starts, records.ends, records.num_lines > len(records.starts)
    table, chosen, wrong = _read_plain_csv(records.content, header.names, forms, has_line_ends=has_long)
    filled = np.flatnonzero(ends > starts)
    assert len(filled) == len(table) + len(wrong), "the reader found other records"
    places = np.delete(filled, wrong) if wrong else filled
    columns, sure = list[Converted](), set[str]()
    for column in judge.source.columns:
        values = table[column.name].combine_chunks()
        converted: Converted = (values, None)
        if pa.types.is_string(values.type):
            converted = convert_texts(_strip(values), column.type)
            # Of moments in UTC with their "Z", all are texts.
            if converted[1] is None and column.type != "timestamp":
                sure.add(column.name)
        elif values.type != TYPES[column.type]:
            converted = (values.cast(TYPES[column.type]), None)
        columns.append(converted)
    forms.keep(chosen, sure)

    def parse_record(place: int) -> ParsedRow:
        text = records.content[starts[place] : ends[place]].decode()
        return header.parse_row(first_line + int(records.lines[place]), text)

    judged = judge.judge_columns(
        columns,
        records.lines[places] + first_line,
        lambda row: parse_record(int(places[row])),
        lambda: _read_texts(records, places),
    )
    return judged.with_rows(judge.judge_rows(parse_record(int(filled[row])) for row in wrong)) if wrong else judged


def _strip(texts: pa.Array) -> pa.Array:
    if not _may_have_blank_ends(texts):
        return texts
    stripped = pc.utf8_trim_whitespace(texts)
    is_empty = pc.equal(stripped, "")
    if not pc.any(is_empty, min_count=0).as_py():
        return stripped
    return pc.if_else(is_empty, pa.scalar(None, pa.string()), stripped)


def _may_have_blank_ends(texts: pa.StringArray) -> bool:
    """Return whether the first or last byte of a text is not of a visible ASCII character."""
    _, offsets, content = texts.buffers()
    ends = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    filled = ends[1:] > ends[:-1]
    if content is None or not filled.any():
        return False
    codes = np.frombuffer(content, np.uint8)
    outer = (codes[ends[:-1][filled]], codes[ends[1:][filled] - 1])
    return any(bool((found - np.uint8(33) > 93).any()) for found in outer)


def _read_texts(records: Records, places: np.ndarray) -> pa.Array:
    offsets = np.append(records.starts, len(records.content)).astype(np.int32)
    texts = pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(records.content))
    return pc.ascii_rtrim(texts.take(pa.array(places)), "\r\n")
