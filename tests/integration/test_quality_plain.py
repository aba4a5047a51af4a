"""Expectations of the common types have without Spark the outcome that Great Expectations has on Spark."""

import math
from dataclasses import replace
from datetime import date, datetime, timezone
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from forecache.base.settings import Settings
from forecache.declare import Expectation, expect
from forecache.kit.delta.tables import append_rows
from forecache.lake.quality.plain_validation import PlainValidation
from forecache.lake.quality.verdicts import validation_name, validation_on_spark

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DAYS = [date(2026, 1, 1), date(2026, 1, 2)]
AT = datetime(2026, 1, 1, tzinfo=timezone.utc)
ROWS = {
    "id": pa.array(["a", "b", "b", None, None, ""], pa.string()),
    "part": pa.array([1, 1, 1, None, None, 2], pa.int32()),
    "count": pa.array([2**53 + 1, -5, 2**63 - 1, None, 0, -(2**63)], pa.int64()),
    "amount": pa.array([0.0, -0.0, math.nan, None, 1e308, 0.1], pa.float64()),
    "share": pa.array([0.1, 0.2, math.nan, None, 1.0, -1.0], pa.float32()),
    "at": pa.array([AT, AT, None, AT, AT, AT], pa.timestamp("us", "UTC")),
    "flag": pa.array([True, None, False, True, True, True], pa.bool_()),
}
PLAIN = [
    *(expect("expect_column_values_to_not_be_null", column=name) for name in ROWS),
    *(expect("expect_column_values_to_be_unique", column=name) for name in ROWS),
    expect("expect_compound_columns_to_be_unique", column_list=["id", "part"]),
    expect("expect_compound_columns_to_be_unique", column_list=["amount", "share", "id"]),
    *(
        expect("expect_column_values_to_be_between", column=name, **limits)
        for name in ("part", "count", "amount", "share")
        for limits in (
            {"min_value": 0}, {"max_value": 1}, {"min_value": 0.1, "max_value": 2}, {"min_value": -(2**53)},
            {"max_value": 2.0**53}, {"min_value": 0.2},
        )
    ),
    expect("expect_column_values_to_be_in_set", column="id", value_set=["a", ""]),
    expect("expect_column_values_to_be_in_set", column="id", value_set=["it's", "c"], severity="warning"),
    expect("expect_table_row_count_to_be_between", min_value=6),
    expect("expect_table_row_count_to_be_between", min_value=7, severity="warning"),
    expect("expect_table_row_count_to_be_between", min_value=0, max_value=3),
]  # fmt: skip


@pytest.fixture
def table(settings: Settings) -> str:
    for day, number in zip(DAYS, (6, 2), strict=True):
        rows = pa.table(ROWS).slice(0, number).append_column("day", pa.array([day] * number, pa.date32()))
        append_rows(settings, "odd", rows, partition_by=["day"])
    return "odd"


@pytest.mark.slow
@pytest.mark.parametrize("days", [DAYS, DAYS[:1], DAYS[1:], [date(2026, 1, 3)]])
def test_the_outcome_is_that_of_great_expectations_on_spark(
    spark: "SparkSession", settings: Settings, table: str, days: list[date]
) -> None:
    plain = PlainValidation(settings, table, PLAIN, column="day")
    assert plain.is_possible
    found = plain.validate(days, name=validation_name(table, days))
    expected = validation_on_spark(lambda: spark, settings, table, PLAIN, column="day")(days)
    for ours, theirs in zip(found.results, expected.results, strict=True):
        assert ours == theirs
    assert replace(found, seconds=0.0) == replace(expected, seconds=0.0)
    assert days == [date(2026, 1, 3)] or {result.success for result in found.results} == {True, False}


@pytest.mark.parametrize(
    "other",
    [
        expect("expect_column_values_to_match_regex", column="id", regex="a"),
        expect("expect_column_values_to_not_be_null", column="id", mostly=0.5),
        expect("expect_column_values_to_not_be_null", column="nope"),
        expect("expect_column_values_to_be_between", column="at", min_value="2026-01-01"),
        expect("expect_column_values_to_be_between", column="id", min_value=1),
        expect("expect_column_values_to_be_between", column="count", min_value=2**53 + 1),
        expect("expect_column_values_to_be_between", column="count", min_value=1, strict_min=True),
        expect("expect_column_values_to_be_in_set", column="part", value_set=[1]),
    ],
)
def test_other_expectations_are_left_to_great_expectations(settings: Settings, table: str, other: Expectation) -> None:
    assert not PlainValidation(settings, table, [*PLAIN, other], column="day").is_possible


def test_the_columns_may_have_any_name(settings: Settings) -> None:
    name: Any = 'a "b" c'
    append_rows(settings, "odd", pa.table({name: [1, None], "day": pa.array(DAYS, pa.date32())}), partition_by=["day"])
    rule = expect("expect_column_values_to_not_be_null", column=name)
    found = PlainValidation(settings, "odd", [rule], column="day").validate(DAYS, name="odd")
    assert [result.unexpected_count for result in found.results] == [1]
