"""Pieces of JSON lines to judged rows: as columns if lines are alike but for their values, else line by line."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.declare import Source
from forecache.lake.ingest.parsing import ParsedRow, column_names, parse_json_line
from forecache.lake.ingest.row_count import MAX_ROW_BYTES, Piece
from forecache.lake.ingest.typed_rows import Converted, JudgedRows, RowJudge, Scan, TextScan, convert_texts

_MOST_TRIES = 32
"""Lines of a piece that are taken as examples of others, each in vain or for all that have its form."""
_QUOTE = ord('"')
_MEMBER = re.compile(rb'( *[{,] *"([^"]*)" *: *)(?:"[^"]*"|[^" ,{}\[\]]+)')
_END = re.compile(rb" *} *")
_PLAIN_VALUE = r"^(?:-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|true|false|null)$"


class JsonLinesScan(TextScan):
    """Turns the pieces of a file of JSON lines to work, in order."""

    def read_piece(self, piece: Piece) -> Scan:
        yield partial(_judge_json_lines, piece, self._first_line, self._judge, self._careful)
        self._first_line += piece.num_lines


@dataclass(frozen=True)
class _Form:
    """The bytes of a line that are no values: before each member's value, and behind the last."""

    names: tuple[str, ...]
    before: tuple[bytes, ...]
    end: bytes


@dataclass(frozen=True)
class _Values:
    """The values of a member in some lines: where they begin and end without their quotes, and if they have some."""

    starts: np.ndarray
    ends: np.ndarray
    is_text: np.ndarray


def _judge_json_lines(piece: Piece, first_line: int, judge: RowJudge, careful: bool) -> JudgedRows:
    starts, ends = piece.lines

    def parse_line(place: int) -> ParsedRow | None:
        content = piece.content[starts[place] : piece.line_ends[place] + 1]
        left_out = piece.left_out if place == len(starts) - 1 else 0
        return parse_json_line(first_line + place, content, left_out, judge.source)

    def judge_alike(places: np.ndarray, columns: Sequence[Converted]) -> JudgedRows:
        def parse_row(row: int) -> ParsedRow:
            parsed = parse_line(int(places[row]))
            assert parsed is not None, "a line with values is not blank"
            return parsed

        def content() -> pa.Array:
            return _read_texts(codes, starts[places], ends[places])

        return judge.judge_columns(columns, places + first_line, parse_row, content)

    codes, is_other = np.frombuffer(piece.content, np.uint8), np.ones(len(starts), np.bool_)
    judged = judge.judge_rows([])
    if not careful:
        is_other = _find_unusual_lines(piece)
        for places, columns in _read_alike(piece, np.flatnonzero(~is_other), judge.source, is_other):
            judged = judge_alike(places, columns).with_rows(judged)
    others = map(parse_line, np.flatnonzero(is_other).tolist())
    return judged.with_rows(judge.judge_rows(row for row in others if row is not None))


def _read_alike(
    piece: Piece, rest: np.ndarray, source: Source, is_other: np.ndarray
) -> Iterator[tuple[np.ndarray, list[Converted]]]:
    """Yield the places of lines of one form, of those in `rest`, and their columns; the others are marked as such."""
    (starts, ends), marks, names = piece.lines, _Marks(piece.content), column_names(source)
    for _ in range(_MOST_TRIES):
        if not len(rest):
            return
        first = rest[0]
        form = _find_form(piece.content[starts[first] : ends[first]], names)
        if form is None:
            is_other[first], rest = True, rest[1:]
            continue
        fits, members = marks.split_lines(form, starts[rest], ends[rest])
        values = dict(zip(form.names, members, strict=True))
        yield rest[fits], [_convert_values(marks.codes, values[column.name], column.type) for column in source.columns]
        rest = rest[~fits]
    is_other[rest] = True


def _find_unusual_lines(piece: Piece) -> np.ndarray:
    """Find the lines (boolean) that are empty, too long, or have a backslash or a control character.

    Returns all lines if one is not UTF-8.
    """
    starts, ends = piece.lines
    if not piece.is_utf8:
        return np.ones(len(starts), np.bool_)
    is_unusual = (starts == ends) | (piece.line_ends - starts >= MAX_ROW_BYTES)
    codes = np.frombuffer(piece.content, np.uint8)
    places = np.flatnonzero((codes < ord(" ")) & (codes != ord("\n")) | (codes == ord("\\")))
    lines = np.searchsorted(piece.line_ends, places)
    is_unusual[lines[places < ends[lines]]] = True
    return is_unusual


def _find_form(line: bytes, names: Sequence[str]) -> _Form | None:
    """The form of a line without backslashes; None if it is not an object with these members."""
    found, before, place = list[str](), list[bytes](), 0
    while member := _MEMBER.match(line, place):
        if member[1].lstrip()[:1] != (b"," if found else b"{"):
            return None
        found.append(member[2].decode())
        before.append(member[1])
        place = member.end()
    end = _END.fullmatch(line, place)
    if end is None or len(found) != len(names) or set(found) != set(names):
        return None
    return _Form(tuple(found), tuple(before), end[0])


class _Marks:
    """The bytes of a piece, and the places of those that end values."""

    _BEHIND = 1 << 10

    def __init__(self, content: bytes) -> None:
        self.codes = np.frombuffer(content, np.uint8)
        self._padded = np.frombuffer(content + bytes(self._BEHIND), np.uint8)
        self._places = dict[int, np.ndarray]()

    def split_lines(self, form: _Form, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, list[_Values]]:
        """Split lines; returns which have the form (boolean), and the values of each member of these."""
        place, fits, members = starts, np.ones(len(starts), np.bool_), list[_Values]()
        for number, before in enumerate(form.before):
            fits &= self._stand_at(before, place)
            place = np.minimum(place + len(before), len(self.codes))
            is_text = self._padded[place] == _QUOTE
            begin = place + is_text
            behind = form.before[number + 1] if number + 1 < len(form.before) else form.end
            end = self._find_next(_QUOTE, begin)
            if not is_text.all():
                end = np.where(is_text, end, self._find_next(behind[0], begin))
            members.append(_Values(begin, end, is_text))
            place = np.minimum(end + is_text, len(self.codes))
        fits &= self._stand_at(form.end, place)
        fits &= place + len(form.end) == ends
        if fits.all():
            return fits, members
        return fits, [_Values(each.starts[fits], each.ends[fits], each.is_text[fits]) for each in members]

    def _stand_at(self, text: bytes, places: np.ndarray) -> np.ndarray:
        """Tell at which places (boolean) a text stands."""
        size = len(text)
        if size > self._BEHIND:
            return np.zeros(len(places), np.bool_)
        windows = np.ndarray(len(self.codes) + 1, f"V{size}", self._padded, 0, (1,))
        found = windows[places].view(np.uint8).reshape(-1, size)
        return np.asarray((found == np.frombuffer(text, np.uint8)).all(axis=1))

    def _find_next(self, code: int, places: np.ndarray) -> np.ndarray:
        """The place of the next such byte from each place on; the end of the piece without one."""
        known = self._places.get(code)
        if known is None:
            known = self._places[code] = np.append(np.flatnonzero(self.codes == code), len(self.codes))
        return known[np.minimum(np.searchsorted(known, places), len(known) - 1)]


def _read_texts(codes: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> pa.StringArray:
    """The texts between places; of a piece, so that they fit 32 bits."""
    lengths = ends - starts
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    return pa.StringArray.from_buffers(len(lengths), pa.py_buffer(offsets), pa.py_buffer(codes[places]))


def _convert_values(codes: np.ndarray, values: _Values, kind: str) -> Converted:
    """Convert values by their texts, which are JSON numbers as they are written."""
    texts = _read_texts(codes, values.starts, values.ends)
    wrong: np.ndarray | None = None
    if not values.is_text.all():
        is_plain = pa.array(~values.is_text)
        if pc.any(is_null := pc.and_(is_plain, pc.equal(texts, "null"))).as_py():
            texts = pc.if_else(is_null, pa.scalar(None, pa.string()), texts)
        is_value = pc.match_substring_regex(texts, _PLAIN_VALUE).fill_null(True)
        if not pc.all(pc.or_(is_value, pc.invert(is_plain)), min_count=0).as_py():
            wrong = ~is_value.to_numpy(zero_copy_only=False) & ~values.is_text
    converted, unknown = convert_texts(texts, kind)
    if wrong is None or unknown is None:
        return converted, unknown if wrong is None else wrong
    return converted, unknown | wrong
