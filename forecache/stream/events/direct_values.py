"""Converts decoded JSON or Avro values directly, if the result is certain to equal the cast of their texts.

A value that is not converted here need not be bad: `forecache.stream.events.judge_texts` judges its text.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from forecache.stream.events.judge_texts import is_above, is_below

if TYPE_CHECKING:
    from forecache.declare import Column

_EPOCH, _UTC_EPOCH = date(1970, 1, 1), datetime(1970, 1, 1, tzinfo=timezone.utc)
_US = timedelta(microseconds=1)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOMENT = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]((?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9])(?:\.([0-9]{1,6}))?"
    r"(Z|[+-](?:0[0-9]|1[0-7]):[0-5][0-9])?"
)
NOT_TAKEN = object()
"""Stands for a value whose text has to be judged."""


def convert_values(column: "Column", values: Sequence[Any]) -> list[Any]:
    """Convert values to what `forecache.stream.events.cast.cast` would make of their texts; null is None.

    Values of another type, missing required ones and those outside the limits are NOT_TAKEN.
    """
    take, kinds = _TAKE[column.type], set(map(type, values))
    if kinds <= _AS_THEY_ARE.get(column.type, set()):
        found = list(values)
    else:
        found = [take(value) if value is not None else None for value in values]
    if column.required:
        found = [NOT_TAKEN if value is None else value for value in found]
    if column.minimum is not None or column.maximum is not None:
        low, high = column.minimum, column.maximum
        found = [value if value is None or _is_within_limits(value, low, high) else NOT_TAKEN for value in found]
    return found


def _is_within_limits(value: Any, low: float | None, high: float | None) -> bool:
    return value is not NOT_TAKEN and not is_below(value, low) and not is_above(value, high)


def _integer_converter(bits: int) -> Callable[[Any], Any]:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return lambda value: value if type(value) is int and low <= value <= high else NOT_TAKEN


def _convert_double(value: Any) -> Any:
    if type(value) is float and math.isfinite(value):
        return value
    return float(value) if type(value) is int else NOT_TAKEN


def _convert_text(value: Any) -> Any:
    return value if type(value) is str else NOT_TAKEN


def _convert_boolean(value: Any) -> Any:
    return value if type(value) is bool else NOT_TAKEN


def _convert_date(value: Any) -> Any:
    try:
        if type(value) is str and _DATE.fullmatch(value):
            value = date.fromisoformat(value)
        return (value - _EPOCH).days if type(value) is date else NOT_TAKEN
    except ValueError:
        return NOT_TAKEN


def _convert_timestamp(value: Any) -> Any:
    if type(value) is datetime:
        return (value - _UTC_EPOCH) // _US if value.tzinfo is not None else NOT_TAKEN
    found = _MOMENT.fullmatch(value) if type(value) is str else None
    if found is None:
        return NOT_TAKEN
    day, time, part, zone = found.groups()
    try:
        at = datetime.fromisoformat(f"{day}T{time}+00:00")
    except ValueError:
        return NOT_TAKEN
    micros = (at - _UTC_EPOCH) // _US + int((part or "").ljust(6, "0"))
    if zone is not None and zone != "Z":
        ahead = (int(zone[1:3]) * 60 + int(zone[4:6])) * 60_000_000
        micros -= ahead if zone[0] == "+" else -ahead
    return micros if _FIRST_US <= micros <= _LAST_US else NOT_TAKEN


_FIRST_US = (datetime(1, 1, 1, tzinfo=timezone.utc) - _UTC_EPOCH) // _US
_LAST_US = (datetime.max.replace(tzinfo=timezone.utc) - _UTC_EPOCH) // _US
_AS_THEY_ARE: Mapping[str, set[type]] = {"string": {str, type(None)}, "boolean": {bool, type(None)}}
_TAKE: Mapping[str, Callable[[Any], Any]] = {
    "string": _convert_text,
    "int": _integer_converter(32),
    "bigint": _integer_converter(64),
    "double": _convert_double,
    "boolean": _convert_boolean,
    "date": _convert_date,
    "timestamp": _convert_timestamp,
}
