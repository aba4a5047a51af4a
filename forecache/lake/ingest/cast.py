"""Casts texts to column types exactly as Spark's `try_cast` does, and judges them by the declared limits.

This is the slow way, for values that are not converted a column at a time. It follows `UTF8String.toLong`, `Cast` and
`SparkDateTimeUtils.parseTimestampString` of Spark 4.1 in ANSI mode, with the session's time zone UTC.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Any

from forecache.declare import Column

# Characters that Spark strips at both ends: white space and control characters of one byte.
_BLANK = "".join(map(chr, range(33))) + "\x7f"
_JAVA_BLANK = "".join(map(chr, range(33)))
_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?)[fFdD]?")
_HEX = re.compile(r"([+-]?0[xX](?:[0-9a-fA-F]+\.?|[0-9a-fA-F]*\.[0-9a-fA-F]+)[pP][+-]?[0-9]+)[fFdD]?")
_SPECIAL = {
    "inf": float("inf"), "+inf": float("inf"), "infinity": float("inf"), "+infinity": float("inf"),
    "-inf": float("-inf"), "-infinity": float("-inf"), "nan": float("nan"),
}  # fmt: skip
_YES, _NO = {"t", "true", "y", "yes", "1"}, {"f", "false", "n", "no", "0"}
_DATE = re.compile(r"([+-]?)([0-9]{4,7})(?:-([0-9]{1,2}))?(?:-([0-9]{1,2})(?:[ T].*)?)?", re.DOTALL)
_MOMENT = re.compile(
    r"(?:([+-]?)([0-9]{4,6})(?:-([0-9]{1,2})(?:-([0-9]{1,2})(?:[ T]"
    r"(?P<hour>[0-9]{1,2})(?::(?P<minute>[0-9]{1,2})(?::(?P<second>[0-9]{1,2})(?:\.(?P<part>[0-9]*))?(?P<zone>.*))?)?)?)?)?)",
    re.DOTALL,
)
_TIME = re.compile(r"T?([0-9]{1,2})(?::([0-9]{1,2})(?::([0-9]{1,2})(?:\.([0-9]*))?(.*))?)?", re.DOTALL)
_OFFSET = re.compile(r"([+-])([0-9]{1,2})(?::?([0-9]{2})(?::?([0-9]{2}))?)?")
_REGION = re.compile(r"[A-Za-z][A-Za-z0-9~/._+-]+")
_SHORT_IDS = {
    "EST": "-05:00", "HST": "-10:00", "MST": "-07:00", "ACT": "Australia/Darwin", "AET": "Australia/Sydney",
    "AGT": "America/Argentina/Buenos_Aires", "ART": "Africa/Cairo", "AST": "America/Anchorage",
    "BET": "America/Sao_Paulo", "BST": "Asia/Dhaka", "CAT": "Africa/Harare", "CNT": "America/St_Johns",
    "CST": "America/Chicago", "CTT": "Asia/Shanghai", "EAT": "Africa/Addis_Ababa", "ECT": "Europe/Paris",
    "IET": "America/Indiana/Indianapolis", "IST": "Asia/Kolkata", "JST": "Asia/Tokyo", "MIT": "Pacific/Apia",
    "NET": "Asia/Yerevan", "NST": "Pacific/Auckland", "PLT": "Asia/Karachi", "PNT": "America/Phoenix",
    "PRT": "America/Puerto_Rico", "PST": "America/Los_Angeles", "SST": "Pacific/Guadalcanal", "VST": "Asia/Ho_Chi_Minh",
}  # fmt: skip
_DAY_US = 86_400_000_000
_LARGEST_US = 2**63 - 1
DAYS_OF_YEARS = (-719_162, 2_932_896)
"""The days of 0001-01-01 and 9999-12-31 since 1970; the lake holds no values beyond them."""
_EPOCH = datetime(1970, 1, 1)


def cast(text: str, kind: str) -> Any:
    """Cast a text to a column's type; None if it is not a valid text of this type.

    A date is the days, a timestamp the microseconds since 1970 in UTC, also beyond the years 1 to 9999.
    """
    return _CASTS[kind](text)


def _parse_integer(text: str, bits: int) -> int | None:
    text = text.strip(_BLANK)
    if not _WHOLE.fullmatch(text) or len(text.lstrip("+-0")) > 20:
        return None
    value = int(text)
    return value if -(2 ** (bits - 1)) <= value < 2 ** (bits - 1) else None


def _parse_double(text: str) -> float | None:
    text = text.strip(_JAVA_BLANK)
    if _NUMBER.fullmatch(text):
        return float(text.rstrip("fFdD"))
    if found := _HEX.fullmatch(text):
        return _parse_hexadecimal(found[1])
    return _SPECIAL.get(text.lower())


def _parse_hexadecimal(text: str) -> float:
    try:
        return float.fromhex(text)
    except OverflowError:
        return float("-inf") if text.startswith("-") else float("inf")


def _parse_boolean(text: str) -> bool | None:
    word = text.strip(_BLANK).lower()
    return True if word in _YES else False if word in _NO else None


def _parse_date(text: str) -> int | None:
    found = _DATE.fullmatch(text.strip(_BLANK))
    if found is None or (found[3] is None and found[4] is not None):
        return None
    sign, year, month, day = found.groups()
    return days_of(-int(year) if sign == "-" else int(year), int(month or 1), int(day or 1))


def _parse_timestamp(text: str) -> int | None:
    trimmed = text.strip(_BLANK)
    found = _MOMENT.fullmatch(trimmed)
    if found is not None:
        sign, year, month, day = found.groups()[:4]
        days = days_of(-int(year) if sign == "-" else int(year), int(month or 1), int(day or 1))
        clock = found["hour"], found["minute"], found["second"], found["part"], found["zone"]
        return None if days is None else _local_to_utc_us(days, *clock)
    time = _TIME.fullmatch(trimmed)
    # A time may begin with "T" only if no blank was stripped before it; without "T" it needs minutes.
    if time is None or not (text.startswith("T") or (":" in trimmed and not trimmed.startswith("T"))):
        return None
    return _local_to_utc_us(None, *time.groups())


def _local_to_utc_us(
    days: int | None, hour: str | None, minute: str | None, second: str | None, part: str | None, zone: str | None
) -> int | None:
    """Microseconds since 1970 of a local time; `days` None: of today."""
    seconds = int(hour or 0) * 3600 + int(minute or 0) * 60 + int(second or 0)
    if int(hour or 0) > 23 or int(minute or 0) > 59 or int(second or 0) > 59:
        return None
    place = _parse_zone((zone or "").strip(_JAVA_BLANK)) if zone else timezone.utc
    if place is None:
        return None
    if days is None:
        days = (datetime.now(place).date() - _EPOCH.date()).days
    local = days * _DAY_US + seconds * 1_000_000 + int((part or "")[:6].ljust(6, "0"))
    micros = local - _offset_us(place, local)
    return micros if -_LARGEST_US - 1 <= micros <= _LARGEST_US else None


def _offset_us(place: tzinfo, local_us: int) -> int:
    """UTC offset of a zone at a local time; outside of Python's years, the one at the nearest year."""
    first, last = (day * _DAY_US for day in DAYS_OF_YEARS)
    at = _EPOCH + timedelta(microseconds=min(max(local_us, first + _DAY_US), last - _DAY_US))
    offset = place.utcoffset(at)
    return 0 if offset is None else round(offset / timedelta(microseconds=1))


@lru_cache(1024)
def _parse_zone(name: str) -> tzinfo | None:
    """Parse a zone as `ZoneId.of(name, ZoneId.SHORT_IDS)` after Spark has padded one-digit hours and minutes."""
    name = re.sub(r"([+-])([0-9]):", r"\g<1>0\2:", name, count=1)
    name = re.sub(r"([+-])([0-9][0-9]):([0-9])$", r"\1\2:0\3", name, count=1)
    name = _SHORT_IDS.get(name, name)
    if name in ("Z", "UTC", "GMT", "UT"):
        return timezone.utc
    for prefix in ("UTC", "GMT", "UT", ""):
        if name.startswith(prefix) and name[len(prefix) : len(prefix) + 1] in ("+", "-"):
            return _parse_fixed_offset(name[len(prefix) :])
    return _find_region(name) if _REGION.fullmatch(name) else None


def _parse_fixed_offset(text: str) -> tzinfo | None:
    found = _OFFSET.fullmatch(text)
    if found is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in found.groups()[1:])
    size = hours * 3600 + minutes * 60 + seconds
    if minutes > 59 or seconds > 59 or size > 18 * 3600 or (len(found[2]) == 1 and found[3] is not None):
        return None
    return timezone(timedelta(seconds=-size if found[1] == "-" else size))


def _find_region(name: str) -> tzinfo | None:
    from zoneinfo import ZoneInfo, available_timezones

    return ZoneInfo(name) if name in available_timezones() else None


def days_of(year: int, month: int, day: int) -> int | None:
    """Days since 1970 of a date of the proleptic Gregorian calendar (H. Hinnant, `days_from_civil`); None: no date."""
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    lengths = (31, 29 if leap else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
    if not 1 <= month <= 12 or not 1 <= day <= lengths[month - 1]:
        return None
    year -= month <= 2
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


_CASTS: Mapping[str, Callable[[str], Any]] = {
    "string": lambda text: text,
    "int": lambda text: _parse_integer(text, 32),
    "bigint": lambda text: _parse_integer(text, 64),
    "double": _parse_double,
    "boolean": _parse_boolean,
    "date": _parse_date,
    "timestamp": _parse_timestamp,
}


def judge_texts(columns: Sequence[Column], texts: Sequence[str | None]) -> tuple[list[Any], str | None]:
    """Cast the texts of an event; returns the typed values, and the first problem or None."""
    typed = [None if text is None else cast(text, column.type) for column, text in zip(columns, texts, strict=True)]
    for column, text, value in zip(columns, texts, typed, strict=True):
        reason = _find_problem(column, text, value)
        if reason is not None:
            return typed, reason
    return typed, None


def _find_problem(column: Column, text: str | None, value: Any) -> str | None:
    name = column.name
    if text is None:
        return f"{name} is missing" if column.required else None
    if value is None:
        return f"{name} '{text}' is not of type {column.type}"
    if column.type == "double" and not math.isfinite(value):
        return f"{name} is not a number" if math.isnan(value) else f"{name} {text} is not finite"
    if column.type in ("date", "timestamp"):
        day = value if column.type == "date" else value // _DAY_US
        if not DAYS_OF_YEARS[0] <= day <= DAYS_OF_YEARS[1]:
            return f"{name} {text} is outside the years 1 to 9999"
    if is_below(value, column.minimum):
        return f"{name} {text} is below the minimum {column.minimum:g}"
    if is_above(value, column.maximum):
        return f"{name} {text} is above the maximum {column.maximum:g}"
    return None


def is_below(value: float, minimum: float | None) -> bool:
    """Compare with a minimum as Spark does: integers exactly, others as doubles."""
    if minimum is None:
        return False
    return value < minimum if type(minimum) is int and type(value) is int else float(value) < float(minimum)


def is_above(value: float, maximum: float | None) -> bool:
    """Compare with a maximum, as `is_below`."""
    if maximum is None:
        return False
    return value > maximum if type(maximum) is int and type(value) is int else float(value) > float(maximum)
