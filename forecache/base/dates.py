"""Dates as people write them: one, or several with ranges."""

from collections.abc import Iterable
from datetime import date, datetime, timedelta, timezone

from forecache.base.errors import InputError

Nights = tuple[date, date]
"""First and last date of a range."""


def parse_ranges(text: str) -> list[Nights]:
    """Dates and ranges, both ends included, with commas between them, such as 1998-06-01,1998-06-05..1998-06-09.

    In ascending order; those that overlap, or follow each other, are one. InputError says what is no date.
    """
    ranges: list[Nights] = []
    for first, last in sorted(map(_parse_range, text.split(","))):
        if ranges and first - ranges[-1][1] <= timedelta(days=1):
            ranges[-1] = (ranges[-1][0], max(ranges[-1][1], last))
        else:
            ranges.append((first, last))
    return ranges


def format_ranges(dates: Iterable[date]) -> str:
    """The text of dates that `parse_ranges` takes, with commas and spaces between; "" for none."""
    ranges: list[Nights] = []
    for day in sorted(dates):
        if ranges and day - ranges[-1][1] == timedelta(days=1):
            ranges[-1] = (ranges[-1][0], day)
        else:
            ranges.append((day, day))
    return ", ".join(str(first) if first == last else f"{first}..{last}" for first, last in ranges)


def _parse_range(text: str) -> Nights:
    first, dots, last = text.strip().partition("..")
    found = parse_date(first), parse_date(last if dots else first)
    if found[0] > found[1]:
        raise InputError(f"The range {text.strip()!r} ends before it starts.", remedy="Write the earlier date first.")
    return found


_DAYS_AGO = {"today": 0, "yesterday": 1}


def parse_date(text: str) -> date:
    """A date such as 1998-06-30, or "today" or "yesterday" by UTC; InputError if it is none."""
    if text in _DAYS_AGO:
        return datetime.now(timezone.utc).date() - timedelta(days=_DAYS_AGO[text])
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InputError(f"{text!r} is not a date.", remedy="Write it like 1998-06-30, today or yesterday.") from None
