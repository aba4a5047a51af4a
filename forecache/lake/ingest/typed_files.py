"""Reads landing files once to judged rows, piece by piece, by all cores, in bounded memory.

A piece is some megabytes of whole lines, or a batch of a Parquet file. Pieces that Arrow's readers understand in the
same way as `parsing` are read by them; of the others each row is parsed by itself.
"""

import csv
import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.base.errors import DamagedError, ForecacheError, InputError
from forecache.declare import Source
from forecache.lake.ingest.csv_pieces import CsvScan
from forecache.lake.ingest.json_pieces import JsonLinesScan
from forecache.lake.ingest.parsing import (
    KEPT_BYTES,
    ParsedRow,
    column_names,
    parquet_column_names,
    parse_batch,
    read_batches,
    require_declared_columns,
    require_texts,
    suffix_of,
)
from forecache.lake.ingest.row_count import (
    MAX_ROW_BYTES,
    TEXT_COUNTS,
    HashedStream,
    count_rows,
    read_pieces,
    require_format,
)
from forecache.lake.ingest.typed_rows import TYPES, Converted, JudgedRows, RowJudge, Scan, TextScan


class UnreadableFileError(Exception):
    """A landing file is unreadable as a whole; the message is the reason."""


class FileReader:
    """Reads a landing file once, for its judged rows, its checksum and its row count.

    Args:
        judge: Of the source and the file's day.
        careful: Parse each row by itself.
    """

    def __init__(self, stream: BinaryIO, name: str, judge: RowJudge, *, careful: bool = False) -> None:
        self._stream, self._suffix, self._judge, self._careful = HashedStream(stream), suffix_of(name), judge, careful
        self._file, self._name = stream, name
        self.num_rows = 0
        """The row count, from the file's bytes; known once all rows are read."""

    def read_rows(self) -> Iterator[JudgedRows]:
        """Yield the judged rows, in order.

        UnreadableFileError, also after the last row: the file is unreadable as a whole, and none of its rows is to be
        taken. OSError passes through: that reading failed is not the file's fault.
        """
        works = self._scan()
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="forecache-ingest") as pool:
            try:
                yield from _run_in_order(works, pool)
            except UnreadableFileError:
                raise
            except Exception as error:
                # The row's place in a file that is unreadable as a whole is no error of its own.
                for _ in works:
                    pass
                if isinstance(error, OSError | MemoryError | ForecacheError):
                    raise
                raise DamagedError(
                    f"Rows of the landing file {self._name} cannot be judged: {type(error).__name__}: {error}.",
                    remedy="Move the file away, so that the others are ingested, and report it: that is a defect.",
                ) from error

    def read_checksum(self) -> str:
        """SHA-256 of the file, of which the rest is read."""
        return self._stream.read_checksum()

    def _scan(self) -> Scan:
        try:
            require_format(self._file, self._suffix)
            yield from self._scan_parquet() if self._suffix == "parquet" else self._scan_text()
        except Exception as error:  # no bytes may stop a source
            if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno):
                raise
            raise UnreadableFileError(_reason(error)) from error

    def _scan_text(self) -> Scan:
        """Yield the work on each piece, once its rows are counted."""
        count = TEXT_COUNTS[self._suffix]()
        scan = _SCANS[self._suffix](self._judge, careful=self._careful)
        failure: Exception | None = None
        for piece in read_pieces(self._stream):
            count.add(piece)
            if failure is None:
                try:
                    yield from scan.read_piece(piece)
                except (InputError, UnicodeDecodeError, csv.Error) as error:
                    failure = error  # unless the count finds a reason in the rest of the file
        self.num_rows = count.finish()
        if failure is not None:
            raise failure
        scan.finish()

    def _scan_parquet(self) -> Scan:
        self._stream.read_checksum()
        names, counted, first_line = column_names(self._judge.source), count_rows(self._file, self._suffix), 1
        require_declared_columns(parquet_column_names(self._file), self._judge.source)
        for batch in read_batches(self._file, names):
            for column in names:
                require_texts(column, batch.column(column))
            yield partial(_judge_batch, batch, first_line, self._judge, self._careful)
            first_line += len(batch)
        if first_line - 1 != counted:
            raise InputError(f"the footer says {counted:,} rows and the file holds {first_line - 1:,}")
        self.num_rows = counted


def _reason(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    text = text if isinstance(error, InputError) else f"not a readable file: {type(error).__name__}: {text}"
    return text.encode(errors="backslashreplace").decode()[:KEPT_BYTES]


_THREADS = min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _run_in_order(works: Scan, pool: ThreadPoolExecutor) -> Iterator[JudgedRows]:
    """Run pieces of work by all cores, some ahead of the one whose result is wanted."""
    running = deque[Future[JudgedRows]]()
    for work in works:
        running.append(pool.submit(work))
        if len(running) > _THREADS:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


_SCANS: Mapping[str, type[TextScan]] = {"csv": CsvScan, "jsonl": JsonLinesScan}


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
    columns, row_bytes = list[Converted](), np.full(len(batch), _MOST_OTHER_BYTES * len(source.columns))
    for column in source.columns:
        values = batch.column(column.name)
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if not _fits(values, column.type):
            return None
        if column.type == "string":
            row_bytes += pc.binary_length(values).fill_null(0).to_numpy(zero_copy_only=False)
        try:
            columns.append((values.cast(TYPES[column.type]), None))
        except pa.ArrowInvalid:  # beyond the type's numbers
            return None
    return columns if row_bytes.max(initial=0) <= MAX_ROW_BYTES else None


_LONG_TEXT, _MOST_OTHER_BYTES = 1 << 12, 40
"""Bytes of the longest text that is taken as it is, and of that of any other value, with the comma behind it."""


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
