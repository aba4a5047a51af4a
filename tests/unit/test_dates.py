"""Dates as people write them."""

from datetime import date, datetime, timedelta, timezone

import pytest

from forecache.base.dates import format_ranges, parse_date, parse_ranges
from forecache.base.errors import InputError


def day(number: int) -> date:
    return date(2026, 1, number)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-03", [(day(3), day(3))]),
        ("2026-01-05..2026-01-09, 2026-01-01", [(day(1), day(1)), (day(5), day(9))]),
        ("2026-01-04,2026-01-05,2026-01-08", [(day(4), day(5)), (day(8), day(8))]),
        ("2026-01-01..2026-01-09,2026-01-03..2026-01-05", [(day(1), day(9))]),
        ("2026-01-03..2026-01-05,2026-01-05..2026-01-07", [(day(3), day(7))]),
        ("9999-12-31,9999-12-31", [(date.max, date.max)]),
    ],
)
def test_ranges_are_ascending_and_have_no_date_twice(text: str, expected: list[tuple[date, date]]) -> None:
    assert parse_ranges(text) == expected


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([], ""),
        ([3], "2026-01-03"),
        ([8, 4, 5, 6], "2026-01-04..2026-01-06, 2026-01-08"),
        ([1, 3], "2026-01-01, 2026-01-03"),
    ],
)
def test_dates_are_shown_as_they_are_given(numbers: list[int], text: str) -> None:
    assert format_ranges(map(day, numbers)) == text
    if numbers:
        given = parse_ranges(text)
        assert sorted(map(day, numbers)) == [day(n) for a, b in given for n in range(a.day, b.day + 1)]


def test_yesterday_is_that_of_utc() -> None:
    before = datetime.now(timezone.utc).date()
    found = parse_date("yesterday") + timedelta(days=1)
    assert before <= found <= datetime.now(timezone.utc).date()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2026-01-32", "'2026-01-32' is not a date. Write it like 1998-06-30, today or yesterday."),
        ("2026-01-01,", "'' is not a date. Write it like 1998-06-30, today or yesterday."),
        (
            "2026-01-09..2026-01-05",
            "The range '2026-01-09..2026-01-05' ends before it starts. Write the earlier date first.",
        ),
    ],
)
def test_what_is_no_date_is_named(text: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_ranges(text)
    assert str(refused.value) == message
