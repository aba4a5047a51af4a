"""Typed rows of landing files, judged a column at a time: good, or bad with the reason.

A value is converted with others if its text has a form that all readers understand in the same way. Every other row,
and every row that breaks a limit, is judged by itself (`cast.judge_texts`), with the same result as if all were.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.declare import Column, Source
from forecache.lake.ingest.cast import DAYS_OF_YEARS, cast, judge_texts
from forecache.lake.ingest.parsing import ParsedRow
from forecache.lake.ingest.row_count import Piece

TYPES = {
    "string": pa.string(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "double": pa.float64(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", "UTC"),
    "boolean": pa.bool_(),
}
"""Arrow types by the declared type of a source's column."""
LINE, CONTENT = "source_line", "content"
TEXT = "row text"
"""The column of good rows with their text: no declared column has a name with a blank."""
BAD_ROWS = pa.schema([(LINE, pa.int64()), ("reason", pa.string()), (CONTENT, pa.string())])
Converted = tuple[pa.Array, np.ndarray | None]
"""The values of a column, null if they are not known; and which ones (boolean) are not, None for none."""
_EPOCH = date(1970, 1, 1)
_DAY_US = 86_400_000_000
_WHOLE = "^-?[0-9]{1,18}$"
_NUMBER = r"^-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$"
_DAY = (
    "[12][0-9]{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    "|02-(?:0[1-9]|1[0-9]|2[0-8]))|[12][0-9](?:0[48]|[2468][048]|[13579][26])-02-29"
)
_LENGTHS_WITH_Z = [20, *range(22, 28)]
_MOMENT = f"^(?:{_DAY})[T ](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{{1,6}})?Z?$"


@dataclass(frozen=True)
class JudgedRows:
    good: pa.Table
    """The source's columns with their types and LINE; and TEXT, if it was asked for."""
    bad: pa.Table
    """BAD_ROWS."""

    def with_rows(self, others: "JudgedRows") -> "JudgedRows":
        """These rows and others, ordered by line."""
        return JudgedRows(_join_by_line(self.good, others.good), _join_by_line(self.bad, others.bad))


Work = Callable[[], JudgedRows]
Scan = Iterator[Work]
"""The work on the pieces of a file, in order."""


class RowJudge:
    """Judges the rows of a file of one day of a source."""

    def __init__(self, source: Source, day: date, *, keeps_content: bool = False) -> None:
        self.source, self.day, self.keeps_content = source, day, keeps_content
        self._day_number = (day - _EPOCH).days
        names = [column.name for column in source.columns]
        self._time = names.index(source.event_time) if source.event_time else None
        fields = [(column.name, TYPES[column.type]) for column in source.columns]
        self.schema = pa.schema([*fields, (LINE, pa.int64()), *([(TEXT, pa.string())] if keeps_content else [])])

    def judge_columns(
        self,
        columns: Sequence[Converted],
        lines: np.ndarray,
        parse_row: Callable[[int], ParsedRow],
        content: Callable[[], pa.Array],
    ) -> JudgedRows:
        """Judge rows whose columns are converted.

        Args:
            columns: The columns of the source.
            lines: The line of each row (int64), ascending.
            parse_row: Parses the row at a place by itself.
            content: Returns the text of all rows.
        """
        doubtful = self._find_doubtful(columns)
        arrays = [values for values, _ in columns]
        table = pa.Table.from_arrays(
            [*arrays, pa.array(lines), *([content()] if self.keeps_content else [])], schema=self.schema
        )
        if doubtful is None:
            return JudgedRows(table, BAD_ROWS.empty_table())
        sure = JudgedRows(table.filter(pa.array(~doubtful)), BAD_ROWS.empty_table())
        return sure.with_rows(self.judge_rows(map(parse_row, np.flatnonzero(doubtful).tolist())))

    def judge_rows(self, rows: Iterable[ParsedRow]) -> JudgedRows:
        """Judge rows one by one."""
        good, bad = list[tuple[Any, ...]](), list[tuple[int, str, str]]()
        for row in rows:
            typed, reason = judge_texts(self.source.columns, row.values)
            reason = row.error or reason or self._find_wrong_day(typed, row.values)
            if reason is None:
                good.append((*typed, row.line, *([row.content] if self.keeps_content else [])))
            else:
                bad.append((row.line, reason, row.content))
        return JudgedRows(_build_table(good, self.schema), _build_table(bad, BAD_ROWS))

    def _find_wrong_day(self, typed: Sequence[Any], texts: Sequence[str | None]) -> str | None:
        if self._time is None or (time := typed[self._time]) is None:
            return None
        days = time if self.source.columns[self._time].type == "date" else time // _DAY_US
        if days == self._day_number:
            return None
        return f"{self.source.event_time} {texts[self._time]} is not on the file's day {self.day}"

    def _find_doubtful(self, columns: Sequence[Converted]) -> np.ndarray | None:
        """Find the rows with a value that was not converted, or breaks a limit; None: there are none."""
        doubtful: np.ndarray | None = None
        for place, (column, (values, unknown)) in enumerate(zip(self.source.columns, columns, strict=True)):
            for found in (unknown, self._find_breaches(column, values, is_time=place == self._time)):
                if found is not None:
                    doubtful = found if doubtful is None else doubtful | found
        return doubtful if doubtful is not None and doubtful.any() else None

    def _find_breaches(self, column: Column, values: pa.Array, *, is_time: bool) -> np.ndarray | None:
        """Find the values that may break the declaration; None: there are none."""
        masks = []
        if column.required and values.null_count:
            masks.append(values.is_null())
        if column.type == "double" and not pc.all(pc.is_finite(values), min_count=0).as_py():
            masks.append(pc.invert(pc.is_finite(values)))
        low, high = self._limits(column, is_time=is_time)
        if (low is not None or high is not None) and values.null_count < len(values):
            numbers = _to_numbers(values, as_doubles=float in (type(low), type(high)))
            found = pc.min_max(numbers).as_py()
            if low is not None and found["min"] < low:
                masks.append(pc.less(numbers, pa.scalar(low, numbers.type)))
            if high is not None and found["max"] > high:
                masks.append(pc.greater(numbers, pa.scalar(high, numbers.type)))
        if not masks:
            return None
        return np.logical_or.reduce([mask.fill_null(False).to_numpy(zero_copy_only=False) for mask in masks])

    def _limits(self, column: Column, *, is_time: bool) -> tuple[Any, Any]:
        """Inclusive limits of a column's values as numbers, of dates in days and of timestamps in microseconds."""
        if column.type in ("date", "timestamp"):
            first, last = (self._day_number, self._day_number) if is_time else DAYS_OF_YEARS
            return (first, last) if column.type == "date" else (first * _DAY_US, (last + 1) * _DAY_US - 1)
        if column.type == "double":
            low, high = (None if limit is None else float(limit) for limit in (column.minimum, column.maximum))
            return low, high
        return column.minimum, column.maximum


class TextScan:
    """Turns the pieces of a file to work, in order; with `careful` each row is parsed by itself."""

    def __init__(self, judge: RowJudge, *, careful: bool) -> None:
        self._judge, self._careful, self._first_line = judge, careful, 1

    def read_piece(self, piece: Piece) -> Scan:
        raise NotImplementedError

    def finish(self) -> None:
        """Called after the last piece."""


def _to_numbers(values: pa.Array, *, as_doubles: bool) -> pa.Array:
    if pa.types.is_date(values.type):
        return values.cast(pa.int32()).cast(pa.int64())
    if pa.types.is_timestamp(values.type):
        return values.cast(pa.int64())
    return values.cast(pa.float64() if as_doubles else pa.int64(), safe=False)


def convert_texts(texts: pa.Array, kind: str) -> Converted:
    """Convert texts to a column's type."""
    if kind == "string":
        return texts, None
    if kind in ("date", "boolean"):
        return _convert_distinct(texts, kind)
    if kind == "timestamp" and _end_with_z(texts):
        try:
            return texts.cast(TYPES[kind]), None
        except pa.ArrowInvalid:
            pass  # a text is no moment
    form = {"int": _WHOLE, "bigint": _WHOLE, "double": _NUMBER, "timestamp": _MOMENT}[kind]
    fits = pc.match_substring_regex(texts, form)
    unknown = None
    if not pc.all(fits, min_count=0).as_py():
        texts = pc.if_else(fits, texts, pa.scalar(None, texts.type))
        unknown = pc.invert(fits).fill_null(False).to_numpy(zero_copy_only=False)
    if kind == "timestamp":
        return pc.utf8_rtrim(texts, "Z").cast(pa.timestamp("us")).cast(TYPES[kind]), unknown
    values = texts.cast(pa.float64() if kind == "double" else pa.int64())
    if kind != "int":
        return values, unknown
    beyond = pc.not_equal(values.cast(pa.int32(), safe=False).cast(pa.int64()), values).fill_null(False)
    if pc.any(beyond, min_count=0).as_py():
        wide = beyond.to_numpy(zero_copy_only=False)
        unknown = wide if unknown is None else unknown | wide
    return values.cast(pa.int32(), safe=False), unknown


def _end_with_z(texts: pa.StringArray) -> bool:
    """Return whether texts have the length of a moment to the second, or a part of it, with a "Z" at the end."""
    _, offsets, content = texts.buffers()
    ends = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    lengths = np.diff(ends)
    filled = lengths > 0
    if content is None or not np.isin(lengths[filled], _LENGTHS_WITH_Z).all():
        return False
    return bool((np.frombuffer(content, np.uint8)[ends[1:][filled] - 1] == ord("Z")).all())


def _convert_distinct(texts: pa.Array, kind: str) -> Converted:
    """Convert each distinct text once, as `cast.cast` does."""
    found = texts.dictionary_encode()
    converted = [cast(text, kind) for text in found.dictionary.to_pylist()]
    if kind == "date":
        first, last = DAYS_OF_YEARS
        converted = [days if days is not None and first <= days <= last else None for days in converted]
    values = make_array(converted, TYPES[kind]).take(found.indices)
    if None not in converted:
        return values, None
    return values, (values.is_null().to_numpy(zero_copy_only=False) & texts.is_valid().to_numpy(zero_copy_only=False))


def _join_by_line(some: pa.Table, others: pa.Table) -> pa.Table:
    if not others.num_rows:
        return some
    rows = pa.concat_tables([some, others])
    return rows.take(pa.array(np.argsort(rows[LINE].to_numpy(), kind="stable")))


def _build_table(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.Table:
    if not rows:
        return schema.empty_table()
    columns = zip(*rows, strict=True)
    return pa.Table.from_arrays(
        [make_array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )


def make_array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """An array of values as `cast.cast` returns them."""
    if pa.types.is_date(kind):
        return pa.array(values, pa.int32()).cast(kind)
    if pa.types.is_timestamp(kind):
        return pa.array(values, pa.int64()).cast(kind)
    return pa.array(values, kind)
