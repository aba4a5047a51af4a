"""Reads landing files to judged rows, piece by piece, by all cores, in bounded memory.

A piece is some megabytes of whole lines, or a batch of a Parquet file. Pieces that Arrow's readers understand in the
same way as `parsing` are read by them; of the others each row is parsed by itself.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.declare import Source
from forecache.lake.ingest.parsing import (
    CsvHeader,
    ParsedRow,
    column_names,
    parse_batch,
    parse_json_line,
    plain_json_record,
    read_batches,
    split_records,
    suffix_of,
)
from forecache.lake.ingest.row_count import (
    MAX_ROW_BYTES,
    count_lines,
    has_plain_records,
    read_pieces,
    skip_byte_order_mark,
    split_lines,
    split_piece,
)
from forecache.lake.ingest.typed_rows import TYPES, Converted, JudgedRows, RowJudge, convert_texts

Work = Callable[[], JudgedRows]


def read_judged_rows(stream: BinaryIO, name: str, judge: RowJudge, *, careful: bool = False) -> Iterator[JudgedRows]:
    """Yield the judged rows of a readable file, in order; with `careful`, each row is parsed by itself."""
    read = {"csv": _read_csv, "jsonl": _read_json_lines, "parquet": _read_parquet}[suffix_of(name)]
    yield from _run_in_order(read(stream, judge, careful))


def _run_in_order(works: Iterator[Work]) -> Iterator[JudgedRows]:
    """Run pieces of work by all cores, some ahead of the one whose result is wanted."""
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads, thread_name_prefix="forecache-ingest") as pool:
        running = deque[Future[JudgedRows]]()
        for work in works:
            running.append(pool.submit(work))
            if len(running) > threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _read_csv(stream: BinaryIO, judge: RowJudge, careful: bool) -> Iterator[Work]:
    header = CsvHeader(stream, judge.source)
    first_line, unread = header.next_line, b""
    for piece, _ in read_pieces(stream):
        if not careful and not unread and has_plain_records(piece):
            yield partial(_judge_plain_csv, piece, first_line, header, judge)
            first_line += count_lines(piece)
            continue
        for part in split_piece(piece):
            if not careful and not unread and has_plain_records(part):
                yield partial(_judge_plain_csv, part, first_line, header, judge)
                first_line += count_lines(part)
                continue
            content = unread + part
            rows, unread = _parse_csv(content, first_line, header)
            yield partial(judge.judge_rows, rows)
            first_line += count_lines(content) - count_lines(unread)
    assert not unread, "a file whose last record does not end is not readable"


def _parse_csv(content: bytes, first_line: int, header: CsvHeader) -> tuple[list[ParsedRow], bytes]:
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


def _judge_plain_csv(piece: bytes, first_line: int, header: CsvHeader, judge: RowJudge) -> JudgedRows:
    """Judge CSV of which each line that is not empty is a record."""
    import pyarrow.csv as pcsv

    wrong = list[int]()  # of the lines that are not empty, those with another number of fields

    def skip(row: pcsv.InvalidRow) -> str:
        wrong.append(row.number - 1)
        return "skip"

    table = pcsv.read_csv(
        pa.BufferReader(piece),
        pcsv.ReadOptions(use_threads=False, column_names=header.names, block_size=len(piece) + 1),
        pcsv.ParseOptions(double_quote=False, invalid_row_handler=skip),
        pcsv.ConvertOptions(
            column_types=dict.fromkeys(header.names, pa.string()), null_values=[""], strings_can_be_null=True
        ),
    )
    starts, ends = _find_lines(piece)
    filled = np.flatnonzero(ends > starts)
    assert len(filled) == len(table) + len(wrong), "the reader found other records than lines"
    places = np.delete(filled, wrong)
    columns = [
        convert_texts(_strip(table[column.name].combine_chunks()), column.type) for column in judge.source.columns
    ]

    def parse_line(place: int) -> ParsedRow:
        return header.parse_row(first_line + place, piece[starts[place] : ends[place]].decode())

    judged = judge.judge_columns(
        columns, places + first_line, lambda row: parse_line(int(places[row])), lambda: _texts(piece, places)
    )
    return judged.with_rows(judge.judge_rows(parse_line(int(filled[row])) for row in wrong)) if wrong else judged


def _find_lines(piece: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Where the lines of a piece begin and end, without their line ends."""
    ends = np.flatnonzero(np.frombuffer(piece, np.uint8) == ord("\n"))
    if not piece.endswith(b"\n"):
        ends = np.append(ends, len(piece))
    starts = np.concatenate([[0], ends[:-1] + 1])
    if b"\r" in piece:
        codes = np.frombuffer(piece, np.uint8)
        ends = ends - ((ends > starts) & (codes[ends - 1] == ord("\r")))
    return starts, ends


def _strip(texts: pa.Array) -> pa.Array:
    stripped = pc.utf8_trim_whitespace(texts)
    return pc.if_else(pc.equal(stripped, ""), pa.scalar(None, pa.string()), stripped)


def _texts(piece: bytes, places: np.ndarray) -> pa.Array:
    """The text of lines of a piece."""
    starts, ends = _find_lines(piece)
    content = pa.py_buffer(piece)
    offsets = np.append(starts, len(piece)).astype(np.int32)
    lines = pa.StringArray.from_buffers(len(starts), pa.py_buffer(offsets), content)
    return pc.utf8_rtrim(lines.take(pa.array(places)), "\r\n")


def _read_json_lines(stream: BinaryIO, judge: RowJudge, careful: bool) -> Iterator[Work]:
    skip_byte_order_mark(stream)
    first_line = 1
    for piece, left_out in read_pieces(stream):
        yield partial(_judge_json_lines, piece, left_out, first_line, judge, careful)
        first_line += count_lines(piece)


def _judge_json_lines(piece: bytes, left_out: int, first_line: int, judge: RowJudge, careful: bool) -> JudgedRows:
    names, lines = set(column_names(judge.source)), list(split_lines(piece))
    places, records, others = list[int](), list[dict[str, Any]](), list[int]()
    for place, line in enumerate(lines):
        record = plain_json_record(line) if not careful and len(line) <= MAX_ROW_BYTES else None
        if record is not None and record.keys() == names:
            places.append(place)
            records.append(record)
        else:
            others.append(place)

    def parse_lines(these: Iterable[int]) -> Iterator[ParsedRow]:
        for place in these:
            cut = left_out if place == len(lines) - 1 else 0
            row = parse_json_line(first_line + place, lines[place], cut, judge.source)
            if row is not None:
                yield row

    columns = [
        _convert_values([record[column.name] for record in records], column.type) for column in judge.source.columns
    ]
    found = np.array(places, np.int64)
    judged = judge.judge_columns(
        columns,
        found + first_line,
        lambda row: next(parse_lines([places[row]])),
        lambda: pa.array([_without_end(lines[place]).decode() for place in places], pa.string()),
    )
    return judged.with_rows(judge.judge_rows(parse_lines(others))) if others else judged


def _without_end(line: bytes) -> bytes:
    return line.removesuffix(b"\n").removesuffix(b"\r")


_JSON_TYPES: Mapping[str, set[type]] = {
    "string": {str}, "int": {int}, "bigint": {int}, "double": {float, int}, "boolean": {bool}, "date": {str},
    "timestamp": {str},
}  # fmt: skip
_LARGEST = {"int": 2**31, "bigint": 2**63}


def _convert_values(values: list[Any], kind: str) -> Converted:
    """Convert values of JSON to a column's type, as their texts would be."""
    taken, unknown = {*_JSON_TYPES[kind], type(None)}, None
    if not set(map(type, values)) <= taken:
        unknown = np.array([type(value) not in taken for value in values], np.bool_)
        values = [value if type(value) in taken else None for value in values]
    if kind in ("date", "timestamp"):
        converted, unsure = convert_texts(pa.array(values, pa.string()), kind)
        return converted, unsure if unknown is None else unknown if unsure is None else unknown | unsure
    if kind in ("int", "bigint"):
        limit = _LARGEST[kind]
        beyond = np.array([value is not None and not -limit <= value < limit for value in values], np.bool_)
        if beyond.any():
            values = [None if wide else value for value, wide in zip(values, beyond, strict=True)]
            unknown = beyond if unknown is None else unknown | beyond
    if kind == "double":
        values = [value if value is None else float(value) for value in values]
    return pa.array(values, TYPES[kind]), unknown


def _read_parquet(stream: BinaryIO, judge: RowJudge, careful: bool) -> Iterator[Work]:
    first_line = 1
    for batch in read_batches(stream, column_names(judge.source)):
        yield partial(_judge_batch, batch, first_line, judge, careful)
        first_line += len(batch)


def _judge_batch(batch: pa.RecordBatch, first_line: int, judge: RowJudge, careful: bool) -> JudgedRows:
    columns = None if careful else _convert_batch(batch, judge.source)
    if columns is None:
        return judge.judge_rows(parse_batch(first_line, batch))

    def parse_row(row: int) -> ParsedRow:
        return next(parse_batch(first_line + row, batch.slice(row, 1)))

    def content() -> pa.Array:
        texts = [column.cast(pa.string()) for column in batch.columns]
        return pc.binary_join_element_wise(*texts, ",", null_handling="replace", null_replacement="")

    return judge.judge_columns(columns, np.arange(len(batch)) + first_line, parse_row, content)


def _convert_batch(batch: pa.RecordBatch, source: Source) -> list[Converted] | None:
    """Convert the columns of a batch whose types fit; None if one's values have to be read by their texts."""
    columns = list[Converted]()
    for column in source.columns:
        values = batch.column(column.name)
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if not _fits(values, column.type):
            return None
        try:
            columns.append((values.cast(TYPES[column.type]), None))
        except pa.ArrowInvalid:  # beyond the type's numbers
            return None
    return columns


_LONG_TEXT = 1 << 12


def _fits(values: pa.Array, kind: str) -> bool:
    """Return whether all values of an array have the same value in a column's type as their texts have."""
    found = values.type
    if kind == "string" and (pa.types.is_string(found) or pa.types.is_large_string(found)):
        longest = pc.max(pc.binary_length(values)).as_py() or 0
        return longest <= _LONG_TEXT and _is_utf8(values)
    if kind in ("int", "bigint"):
        return bool(pa.types.is_integer(found))
    if kind == "double":
        return bool(found == pa.float64())
    if kind == "timestamp":
        return bool(pa.types.is_timestamp(found) and found.unit != "ns" and found.tz in (None, "UTC"))
    return bool(found == TYPES[kind])


def _is_utf8(values: pa.Array) -> bool:
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True
