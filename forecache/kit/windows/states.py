"""The state of a measure over some rows, in numpy. A row is a tile of its own; tiles combine in any order to one.

| Aggregate | State |
| --- | --- |
| count | rows (bigint) |
| sum | whole (bigint), part (bigint): a value is its floor, and the rest in steps of 2**-32 |
| min, max | value (double) |
| last | at (bigint, microseconds), value (double) |
| distinct | values (array) |

Runs inside Spark's Python workers: imports neither settings nor the declaration's modules.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.kit.windows.plan import DAY_US, MINUTE_US
from forecache.kit.windows.tiles import NO_TIME, PART_BITS, Bools, Ints


def column_words(column: pa.Array) -> Ints:
    """The bits of an int64 or a float64 column, int64 [n]; for null the least int64, or NaN."""
    nothing = np.nan if pa.types.is_floating(column.type) else NO_TIME
    return np.ascontiguousarray(fill_nulls(column, nothing)).view(np.int64)


def fill_nulls(column: pa.Array, nothing: float) -> Any:
    """The values of a column of numbers as a numpy array [n], with a given number in place of null."""
    if column.null_count:  # most have none, and filling takes longer than all else with few rows
        column = column.fill_null(nothing)
    return column.to_numpy(zero_copy_only=False)


def microseconds(column: pa.ChunkedArray) -> Ints:
    """The microseconds since 1970 of a column of timestamps in microseconds without nulls, int64 [n]; no copy."""
    found: Ints = column.combine_chunks().view(pa.int64()).to_numpy(zero_copy_only=False)
    return found


def number_keys(table: pa.Table, key: Sequence[str]) -> tuple[Ints, pa.Table]:
    """Number the distinct keys of rows; returns each row's number, int64 [n], and the keys by number."""
    codes, num_keys = np.zeros(table.num_rows, np.int64), 1
    for name in key:
        column, many = _number_values(table[name].combine_chunks())
        codes = column if num_keys == 1 else codes * many + column
        codes, num_keys = (codes, many) if num_keys == 1 else _number_values(pa.array(codes))
    first = np.empty(num_keys, np.int64)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    return codes, table.select(list(key)).take(pa.array(first))


def _number_values(column: pa.Array) -> tuple[Ints, int]:
    found = column.dictionary_encode()
    return found.indices.to_numpy(zero_copy_only=False).astype(np.int64), len(found.dictionary)


EVENTS = "events"
TOO_LARGE = "forecache: a value is too large for a sum: "
_LARGEST = 2.0**44


@dataclass(frozen=True)
class MeasureState:
    """The state of a measure."""

    aggregate: str
    names: tuple[str, ...]  # columns of the tile that hold it
    column: str | None = None  # that is aggregated; None: rows are counted
    where: tuple[tuple[str, str, Any], ...] = ()  # column, comparison and value of the conditions
    minutes: int | None = None  # only rows of the last minutes of a day count

    @property
    def reads(self) -> list[str]:
        """Columns of the rows that the state is made from."""
        return [*([self.column] if self.column else []), *(name for name, *_ in self.where)]

    @property
    def needs_time(self) -> bool:
        """True if it depends on when in its day an event was."""
        return self.aggregate == "last" or self.minutes is not None


_EVENTS = MeasureState("count", (EVENTS,))


def as_tiles(rows: pa.Table, key: Sequence[str], states: Sequence[MeasureState], time: str) -> pa.Table:
    """Make a tile of each row: key columns, `events` and states; `time` is a date or a timestamp, if one needs it.

    ValueError if a value is too large for a sum, see `TOO_LARGE`.
    """
    columns = {name: rows[name] for name in key}
    for state in [_EVENTS, *states]:
        made = _state_columns(rows, state, time)
        columns |= dict(zip(state.names, made, strict=True))
    return pa.table(columns)


def combine(tiles: pa.Table, key: Sequence[str], states: Sequence[MeasureState]) -> pa.Table:
    """Combine tiles, at least one, into one for each key."""
    codes, keys = number_keys(tiles, key)
    columns = {name: keys[name] for name in key}
    for state in [_EVENTS, *states]:
        given = [tiles[name].combine_chunks() for name in state.names]
        combined = _combine_columns(state.aggregate, given, codes, keys.num_rows)
        columns |= dict(zip(state.names, combined, strict=True))
    return pa.table(columns)


def is_too_large(rows: pa.Table, state: MeasureState) -> Bools:
    """True for rows that count in a sum and have a value too large for it, see `TOO_LARGE`; bool [n]."""
    assert state.column is not None
    values = fill_nulls(rows[state.column].combine_chunks(), 0)
    return _exceeds(np.where(_meet_all(rows, state), values, 0))


def state_words(rows: pa.Table, state: MeasureState, time: str) -> list[Ints]:
    """The state of each row as one or two words, int64 [n], see `kit.windows.tiles`; ValueError as `as_tiles`."""
    meets, made = _measure_rows(rows, state, time)
    if state.aggregate in ("count", "sum"):
        return made
    return [np.where(meets, each, NO_TIME if each.dtype.kind == "i" else np.nan).view(np.int64) for each in made]


def _state_columns(rows: pa.Table, state: MeasureState, time: str) -> list[pa.Array]:
    if state.aggregate == "distinct":
        assert state.column is not None
        meets = _rows_that_count(rows, state, time)
        offsets = np.concatenate([[0], np.cumsum(meets)]).astype(np.int32)
        return [
            pa.ListArray.from_arrays(pa.array(offsets), rows[state.column].combine_chunks().filter(pa.array(meets)))
        ]
    meets, made = _measure_rows(rows, state, time)
    return [pa.array(each, mask=None if state.aggregate in ("count", "sum") else ~meets) for each in made]


def _measure_rows(rows: pa.Table, state: MeasureState, time: str) -> tuple[Bools, list[Any]]:
    """Return a mask of the rows that count, bool [n], and the columns of their states.

    States of a row that does not count have no meaning, except in counts and sums.
    """
    meets = _rows_that_count(rows, state, time)
    if state.column is None or state.aggregate == "count":
        return meets, [meets.astype(np.int64)]
    values = fill_nulls(rows[state.column].combine_chunks(), 0)
    if state.aggregate == "sum":
        return meets, [*_fixed_point(state.column, np.where(meets, values, 0))]
    # -0.0 and 0.0 are equal, so that which of them is the smallest would depend on the order of rows.
    numbers = values.astype(np.float64) + 0.0
    return meets, [numbers] if state.aggregate != "last" else [_micros(rows[time]), numbers]


NO_BOUND = {"min": np.inf, "max": -np.inf}
"""Of a key without a value."""
BOUNDS = {"min": np.minimum, "max": np.maximum}


def _combine_columns(aggregate: str, given: list[pa.Array], codes: Ints, num_keys: int) -> list[pa.Array]:
    if aggregate in ("count", "sum"):
        totals = [np.zeros(num_keys, np.int64) for _ in given]
        for total, each in zip(totals, given, strict=True):
            np.add.at(total, codes, each.to_numpy())
        return [pa.array(total) for total in totals]
    if aggregate == "distinct":
        return [_distinct(given[0], codes, num_keys)]
    if aggregate == "last":
        at, values = fill_nulls(given[0], NO_TIME), fill_nulls(given[1], -np.inf)
        newest, last = np.full(num_keys, NO_TIME), np.full(num_keys, -np.inf)
        np.maximum.at(newest, codes, at)
        is_newest = at == newest[codes]
        np.maximum.at(last, codes[is_newest], values[is_newest])
        return [pa.array(each, mask=newest == NO_TIME) for each in (newest, last)]
    found = np.full(num_keys, NO_BOUND[aggregate])
    BOUNDS[aggregate].at(found, codes, fill_nulls(given[0], NO_BOUND[aggregate]))
    return [pa.array(found, mask=found == NO_BOUND[aggregate])]


def _distinct(lists: pa.Array, codes: Ints, num_keys: int) -> pa.Array:
    """The distinct values of each key, ascending."""
    values = pc.list_flatten(lists).dictionary_encode()
    ascending = pc.sort_indices(values.dictionary).to_numpy()
    rank = np.empty(len(ascending), np.int64)
    rank[ascending] = np.arange(len(ascending))
    found = codes[pc.list_parent_indices(lists).to_numpy()] * max(1, len(rank))
    found = np.unique(found + rank[values.indices.to_numpy()])
    of_key, which = np.divmod(found, max(1, len(rank)))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(of_key, minlength=num_keys))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values.dictionary.take(pa.array(ascending[which])))


def _rows_that_count(rows: pa.Table, state: MeasureState, time: str) -> Bools:
    meets = _meet_all(rows, state)
    if state.minutes is not None:
        meets &= _micros(rows[time]) % DAY_US >= DAY_US - state.minutes * MINUTE_US
    return meets


def _meet_all(rows: pa.Table, state: MeasureState) -> Bools:
    """True for rows that meet the conditions and have a value, bool [n]."""
    conditions = [_meets(rows[name], *rest) for name, *rest in state.where]
    values = [_has_value(rows[state.column].combine_chunks())] if state.column is not None else []
    return reduce(np.logical_and, [*conditions, *values], np.ones(rows.num_rows, bool))


def _has_value(column: pa.Array) -> Bools:
    if pa.types.is_floating(column.type):
        return np.isfinite(fill_nulls(column, np.nan))
    return np.asarray(column.is_valid()) if column.null_count else np.ones(len(column), bool)


def _meets(column: pa.ChunkedArray, comparison: str, value: Any) -> Bools:
    column = column.combine_chunks()
    known = np.asarray(column.is_valid())
    if pa.types.is_floating(column.type):
        known &= ~np.asarray(pc.is_nan(column).fill_null(True))
        value = tuple(map(float, value)) if comparison == "in" else float(value)
    elif pa.types.is_integer(column.type):
        column = column.cast(pa.int64())
    elif pa.types.is_boolean(column.type):
        column, value = column.cast(pa.int8()), tuple(map(int, value)) if comparison == "in" else int(value)
    if comparison == "in" and not pa.types.is_floating(column.type):
        return known & np.asarray(pc.is_in(column, pa.array(value, column.type)).fill_null(False))
    if comparison == "in":  # a look-up distinguishes -0.0 from 0.0
        return known & reduce(np.logical_or, (_compare("==", column, each) for each in value))
    return known & _compare(comparison, column, value)


def _compare(comparison: str, column: pa.Array, value: Any) -> Bools:
    compare = {
        "==": pc.equal, "!=": pc.not_equal, "<": pc.less, "<=": pc.less_equal, ">": pc.greater,
        ">=": pc.greater_equal,
    }[comparison]  # fmt: skip
    return np.asarray(compare(column, pa.scalar(value, column.type)).fill_null(False))


def _fixed_point(column: str, values: Any) -> tuple[Ints, Ints]:
    """Whole and part of numbers; raises ValueError for a number that is too large."""
    too_large = _exceeds(values)
    if too_large.any():
        raise ValueError(f"{TOO_LARGE}{column}={values[too_large][0]}")
    if values.dtype.kind != "f":
        return values.astype(np.int64), np.zeros(len(values), np.int64)
    whole = np.floor(values)
    return whole.astype(np.int64), np.rint((values - whole) * 2.0**PART_BITS).astype(np.int64)


def _exceeds(values: Any) -> Bools:
    return np.abs(values.astype(np.float64)) >= _LARGEST


def _micros(time: pa.ChunkedArray) -> Ints:
    if pa.types.is_date(time.type):
        return time.cast(pa.int32()).to_numpy().astype(np.int64) * DAY_US
    return microseconds(time.cast(pa.timestamp("us", time.type.tz)) if time.type.unit != "us" else time)
