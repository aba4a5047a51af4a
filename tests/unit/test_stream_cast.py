"""Texts as values of a column's type; tests/integration/test_stream_judge.py compares them with Spark's."""

import math

import pytest

from forecache.lake.ingest.cast import cast, days_of

DAY_US = 86_400_000_000


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("12", "int", 12),
        (" +12\t", "bigint", 12),
        ("1.0", "bigint", None),
        ("2147483648", "int", None),
        ("-9223372036854775808", "bigint", -(2**63)),
        ("9223372036854775808", "bigint", None),
        ("1e400", "double", math.inf),
        (".5d", "double", 0.5),
        ("0x1p3", "double", 8.0),
        ("-Infinity", "double", -math.inf),
        ("1_000", "double", None),
        ("YES", "boolean", True),
        ("0", "boolean", False),
        ("on", "boolean", None),
        ("1970-1-2", "date", 1),
        ("1970-01-02T99", "date", 1),
        ("1970-13-01", "date", None),
        ("70-01-01", "date", None),
        ("1970-01-02 00:00:01.5+01:00", "timestamp", DAY_US + 1_500_000 - 3_600_000_000),
        ("1970-01-02T3", "timestamp", DAY_US + 3 * 3_600_000_000),
        ("1970-01-02 00:00:00 Europe/Berlin", "timestamp", DAY_US - 3_600_000_000),
        ("1970-01-02 00:00Z", "timestamp", None),
        ("1970-01-02 24:00:00", "timestamp", None),
        ("1970", "timestamp", 0),
        ("", "timestamp", None),
        ("x", "string", "x"),
    ],
)
def test_a_text_is_cast_as_spark_does(text: str, kind: str, value: object) -> None:
    assert cast(text, kind) == value


def test_days_are_those_of_the_gregorian_calendar() -> None:
    from datetime import date

    for ordinal in range(1, date.max.toordinal(), 997):
        day = date.fromordinal(ordinal)
        assert days_of(day.year, day.month, day.day) == ordinal - 719_163
    assert days_of(2023, 2, 29) is None
    assert days_of(0, 3, 1) == days_of(1, 3, 1) - 365
