"""Great Expectations through a real Spark session: outcomes, errors, number of passes, and nothing left behind."""

from datetime import date
from typing import TYPE_CHECKING, Any

import pytest

from forecache.base.errors import CheckError, SettingsError
from forecache.declare import expect
from forecache.lake.quality.validate import validate

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

UNIQUE = expect("expect_compound_columns_to_be_unique", column_list=["id", "as_of"])


@pytest.fixture
def frame(spark: "SparkSession") -> "DataFrame":
    rows: list[tuple[Any, ...]] = [
        ("a", date(2026, 1, 1), 0.5),
        ("b", date(2026, 1, 1), 1.5),
        ("b", date(2026, 1, 1), None),
        (None, date(2026, 1, 1), float("nan")),
    ]
    return spark.createDataFrame(rows, "id string, as_of date, score double")


def test_counts_what_breaks_each_expectation_in_the_order_declared(frame: "DataFrame") -> None:
    report = validate(
        frame,
        [
            expect("expect_column_values_to_be_between", column="score", min_value=0.0, max_value=1.0),
            expect("expect_column_values_to_not_be_null", column="id"),
            expect("expect_column_values_to_not_be_null", column="score"),
            UNIQUE,
            expect("expect_table_row_count_to_be_between", min_value=4, max_value=4),
            expect("expect_column_values_to_match_regex", column="id", regex="^[ab]$"),
        ],
        name="scores",
    )
    assert [(r.success, r.unexpected_count) for r in report.results] == [
        (False, 1),
        (False, 1),
        (False, 2),
        (False, 1),
        (True, None),
        (True, 0),
    ]
    assert report.rows == 4
    assert report.results[0].unexpected_percent == pytest.approx(25.0)
    assert report.results[4].observed == 4
    assert not report.success
    assert report.sentence.startswith("scores fails 4 of 6 expectations: score must be 0 to 1: 1 rows (25 %) do not.")


def test_nan_passes_neither_a_minimum_nor_not_null(spark: "SparkSession") -> None:
    nan = spark.createDataFrame([(float("nan"),)], "x double")
    minimum = expect("expect_column_values_to_not_be_null", column="x")
    assert validate(nan, [minimum], name="t").results[0].unexpected_count == 1


def test_a_warning_that_fails_is_reported_and_does_not_fail_the_report(frame: "DataFrame") -> None:
    report = validate(
        frame,
        [expect("expect_column_values_to_not_be_null", column="id", severity="warning")],
        name="t",
    )
    assert report.success
    assert [w.sentence for w in report.warnings] == ["id must not be null: 1 rows (25 %) do not."]


def test_an_empty_frame_fails_on_its_row_count_only(frame: "DataFrame") -> None:
    report = validate(
        frame.where("false"),
        [
            expect("expect_table_row_count_to_be_between", min_value=1),
            expect("expect_column_values_to_not_be_null", column="id"),
            UNIQUE,
        ],
        name="t",
    )
    assert [r.success for r in report.results] == [False, True, True]


def test_a_missing_column_is_an_error_that_names_it(frame: "DataFrame") -> None:
    with pytest.raises(CheckError, match="t lacks the column 'nope'.*It has id, as_of, score"):
        validate(frame, [expect("expect_column_values_to_not_be_null", column="nope")], name="t")


def test_an_expectation_that_cannot_be_evaluated_is_an_error_and_not_a_failure(frame: "DataFrame") -> None:
    # A date has no mean in Spark.
    with pytest.raises(CheckError, match="t could not be checked by expect_column_mean_to_be_between"):
        validate(frame, [expect("expect_column_mean_to_be_between", column="as_of", min_value=0)], name="t")


def test_a_wrong_declaration_is_a_settings_error(frame: "DataFrame") -> None:
    wrong = expect("expect_column_values_to_be_between", column="id", lowest=1)
    with pytest.raises(SettingsError, match="has wrong arguments"):
        validate(frame, [wrong], name="t")


def test_more_expectations_take_no_more_jobs(spark: "SparkSession", frame: "DataFrame") -> None:
    few = [expect("expect_column_values_to_not_be_null", column="id")]
    many = [
        *few,
        expect("expect_column_values_to_not_be_null", column="score"),
        expect("expect_column_values_to_not_be_null", column="as_of"),
        *(expect("expect_column_values_to_be_between", column="score", min_value=-i) for i in range(1, 6)),
    ]
    assert _jobs(spark, frame, many) == _jobs(spark, frame, few)


def test_nothing_stays_cached_or_registered(spark: "SparkSession", frame: "DataFrame") -> None:
    # Delta keeps the state of tables that it has read; what counts is that nothing is added.
    cache = spark._jsparkSession.sharedState().cacheManager()
    cached = cache.numCachedEntries()
    before = set(spark.sparkContext._jsc.getPersistentRDDs())
    validate(frame, [UNIQUE], name="t")
    assert set(spark.sparkContext._jsc.getPersistentRDDs()) <= before
    assert cache.numCachedEntries() == cached
    assert spark.catalog.listTables() == []
    assert not frame.is_cached


def _jobs(spark: "SparkSession", frame: "DataFrame", expectations: list[Any]) -> int:
    context = spark.sparkContext
    context.setJobGroup(f"count {len(expectations)}", "")
    try:
        validate(frame, expectations, name="t")
        return len(context.statusTracker().getJobIdsForGroup(f"count {len(expectations)}"))
    finally:
        context.setLocalProperty("spark.jobGroup.id", None)  # type: ignore[arg-type]
