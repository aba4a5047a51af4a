"""Dates and times in SQL: literals, intervals, and functions that DuckDB and Spark compute equally. Times are UTC."""

import re
from datetime import date, datetime
from typing import Any

from forecache.declare.sql.values import (
    BIGINT,
    DATE,
    TIMESTAMP,
    Arguments,
    RefusedSqlError,
    SqlType,
    Value,
    convert,
    require,
    shorten,
    take,
    take_constant,
    write,
)

_DAY_US = 86_400_000_000
_SHORT_US = {"hour": 3_600_000_000, "minute": 60_000_000, "second": 1_000_000}
_UNITS_US = {"day": _DAY_US, "week": 7 * _DAY_US, **_SHORT_US}

_PARTS = {
    "year": "year({0})",
    "quarter": "quarter({0})",
    "month": "month({0})",
    "week": "weekofyear({0})",
    "day": "day({0})",
    "dayofyear": "dayofyear({0})",
    "dayofweek": "(dayofweek({0}) - 1)",
    "isodow": "(weekday({0}) + 1)",
    "hour": "hour({0})",
    "minute": "minute({0})",
}
"""Parts of a date in Spark; in DuckDB each is a function of its name."""
_TIME_PARTS = ("hour", "minute")


def date_part(name: str, value: Value) -> Value:
    """A part of a date or timestamp: Sunday is 0 in `dayofweek`, and Monday is 1 in `isodow`."""
    name = {"doy": "dayofyear", "dow": "dayofweek"}.get(name, name)
    if name not in _PARTS:
        raise RefusedSqlError(f"asks for the {name} of a date", f"There are {', '.join(_PARTS)}.")
    value = require(value, f"{name}()", *(["timestamp"] if name in _TIME_PARTS else ["date", "timestamp"]))
    return write(BIGINT, [value], f"CAST({name}({{0}}) AS BIGINT)", f"CAST({_PARTS[name]} AS BIGINT)")


def _date_part(name: str, values: Arguments) -> Value:
    take(name, values, 2, 2)
    return date_part(str(take_constant(name, values[0], str)).lower(), values[1])


def _named_part(name: str, values: Arguments) -> Value:
    take(name, values, 1, 1)
    return date_part(name, values[0])


def _to_date(value: Value) -> Value:
    return value if value.type == DATE else write(DATE, [value], "CAST({0} AS DATE)")


def _date_trunc(name: str, values: Arguments) -> Value:
    take(name, values, 2, 2)
    unit = str(take_constant(name, values[0], str)).lower()
    value = require(values[1], "date_trunc()", "date", "timestamp")
    units = ("year", "quarter", "month", "week", "day")
    if unit not in units:
        raise RefusedSqlError(f"calls date_trunc() with {unit!r}", f"It takes {', '.join(units)}.")
    if unit == "day":
        return convert(_to_date(value), value.type)
    day = _to_date(value)
    cut = write(DATE, [day], f"CAST(date_trunc('{unit}', {{0}}) AS DATE)", f"trunc({{0}}, '{unit}')")
    return convert(cut, value.type)


def _date_diff(name: str, values: Arguments) -> Value:
    """The number of boundaries of a unit between two moments, as DuckDB counts."""
    take(name, values, 3, 3)
    unit = str(take_constant(name, values[0], str)).lower()
    first, last = (require(value, f"{name}()", "date", "timestamp") for value in values[1:])
    if unit in _SHORT_US:
        first, last = convert(first, TIMESTAMP), convert(last, TIMESTAMP)
        step = _SHORT_US[unit]
        micros = [write(BIGINT, [value], "epoch_us({0})", "unix_micros({0})") for value in (first, last)]
        begun = [f"({{{place}}} - ({{{place}}} % {step} + {step}) % {step}) // {step}" for place in (0, 1)]
        duckdb = f"({begun[1]} - {begun[0]})"
        return write(BIGINT, micros, duckdb, duckdb.replace("//", "div"))
    days = [_to_date(first), _to_date(last)]
    months = "((year({1}) - year({0})) * 12 + month({1}) - month({0}))"
    forms = {
        "day": ("date_diff('day', {0}, {1})", "datediff({1}, {0})"),
        "month": (months, months),
        "year": ("(year({1}) - year({0}))",) * 2,
    }
    if unit not in forms:
        raise RefusedSqlError(f"calls {name}() with {unit!r}", f"It takes {', '.join([*forms, *_SHORT_US])}.")
    return write(BIGINT, days, *(f"CAST({form} AS BIGINT)" for form in forms[unit]))


def _epoch_us(name: str, values: Arguments) -> Value:
    take(name, values, 1, 1)
    return write(BIGINT, [require(values[0], f"{name}()", "timestamp")], "epoch_us({0})", "unix_micros({0})")


def read_moment(text: str, kind: SqlType) -> Value:
    try:
        if kind == DATE:
            written = f"DATE '{date.fromisoformat(text).isoformat()}'"
        else:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is not None:
                raise ValueError
            written = f"TIMESTAMP '{moment.isoformat(' ')}'"
    except ValueError:
        rule = "Write it like '2026-01-31', or with a time like '2026-01-31 12:00:00', in UTC."
        raise RefusedSqlError(f"has the {kind} {text!r}", rule) from None
    return Value(kind, written, written)


def read_interval(node: Any) -> tuple[int, str]:
    unit, number = node.text("unit").lower().rstrip("s"), node.this
    given = number.this if type(number).__name__ == "Literal" else ""
    if not re.fullmatch(r"\d+", str(given)) or unit not in (*_UNITS_US, "month", "year"):
        rule = f"Write a whole number of {', '.join([*_UNITS_US, 'month', 'year'])}s, such as interval 30 days."
        raise RefusedSqlError(f"has {shorten(node)}", rule, node)
    return int(given), unit


def shift(value: Value, number: int, unit: str, sign: str) -> Value:
    """A date or timestamp and an interval; a date stays one."""
    value = require(value, sign, "date", "timestamp")
    signed = number if sign == "+" else -number
    if unit in ("month", "year"):
        months = signed * (12 if unit == "year" else 1)
        if value.type == DATE:
            duckdb = f"CAST(({{0}} + to_months(CAST({months} AS INTEGER))) AS DATE)"
            return write(DATE, [value], duckdb, f"add_months({{0}}, {months})")
        spark = f"({{0}} + make_ym_interval(0, {months}))"
        return write(TIMESTAMP, [value], f"({{0}} + to_months(CAST({months} AS INTEGER)))", spark)
    if value.type == TIMESTAMP:
        micros = signed * _UNITS_US[unit]
        return write(
            TIMESTAMP,
            [value],
            f"make_timestamp(epoch_us({{0}}) + {micros})",
            f"timestamp_micros(unix_micros({{0}}) + {micros}L)",
        )
    if unit not in ("day", "week"):
        raise RefusedSqlError(f"has {sign} of a date and {unit}s", "Take a timestamp.")
    days = signed * (7 if unit == "week" else 1)
    return write(DATE, [value], f"({{0}} + {days})", f"date_add({{0}}, {days})")


DATE_FUNCTIONS = {
    "date_part": _date_part,
    **dict.fromkeys(_PARTS, _named_part),
    "date_trunc": _date_trunc,
    "date_diff": _date_diff,
    "epoch_us": _epoch_us,
}
