"""Derived expectations, the sentences people read, and the separation of splits."""

from datetime import date

import pytest

from forecache.base.settings import load_settings
from forecache.declare import Column, Source, expect, load_pipeline
from forecache.lake.quality.expectations import feature_expectations, prediction_expectations, raw_expectations
from forecache.lake.quality.stage_checks import check_splits
from forecache.lake.quality.validate import CheckReport, CheckResult, describe_outcome

SOURCE = Source(
    name="visits",
    columns=(
        Column("id", "string"),
        Column("at", "timestamp"),
        Column("pages", "int", required=False, minimum=1, maximum=500),
    ),
    event_time="at",
    start=date(2026, 1, 1),
    unique=("id",),
    expectations=(expect("expect_column_values_to_be_between", column="pages", max_value=100, severity="warning"),),
)


def test_raw_expectations_cover_required_columns_ranges_and_the_event_identity() -> None:
    derived = {(e.type, e.arguments.get("column")): e for e in raw_expectations(SOURCE)}
    assert ("expect_column_values_to_not_be_null", "id") in derived
    assert ("expect_column_values_to_not_be_null", "pages") not in derived
    assert ("expect_column_values_to_be_unique", "id") in derived
    between = [e for e in raw_expectations(SOURCE) if e.type == "expect_column_values_to_be_between"]
    assert [(dict(e.arguments), e.severity) for e in between] == [
        ({"column": "pages", "min_value": 1, "max_value": 500}, "critical"),
        ({"column": "pages", "max_value": 100}, "warning"),
    ]


def test_prediction_expectations_demand_every_output_in_range_and_each_key_once() -> None:
    churn = load_pipeline(load_settings(), "churn")
    derived = prediction_expectations(churn)
    not_null = {e.arguments["column"] for e in derived if e.type == "expect_column_values_to_not_be_null"}
    assert {"customer_id", "as_of", "churn_probability", "risk_segment", "model_version"} <= not_null
    assert expect("expect_compound_columns_to_be_unique", column_list=["customer_id", "as_of"]) in derived
    assert (
        expect("expect_column_values_to_be_between", column="churn_probability", min_value=0.0, max_value=1.0)
        in derived
    )
    assert expect("expect_table_row_count_to_be_between", min_value=1) in derived


def test_feature_expectations_end_with_what_the_declaration_adds() -> None:
    (view,) = load_pipeline(load_settings(), "churn").views
    assert feature_expectations(view)[-len(view.feature_expectations) :] == view.feature_expectations


@pytest.mark.parametrize(
    ("expectation", "observed", "count", "expected"),
    [
        (
            expect("expect_column_values_to_not_be_null", column="id"),
            None,
            3,
            "id must not be null: 3 rows (1.5 %) do not.",
        ),
        (
            expect("expect_table_row_count_to_be_between", min_value=1),
            0,
            None,
            "The table must have at least 1 rows: it is 0.",
        ),
        (
            expect("expect_column_mean_to_be_between", column="x", min_value=1, max_value=2),
            3.25,
            None,
            "x column mean to be between (min_value=1, max_value=2): it is 3.25.",
        ),
    ],
)
def test_sentence_says_what_was_expected_and_how_far_off_it_is(expectation, observed, count, expected) -> None:  # type: ignore[no-untyped-def]
    percent = None if count is None else 1.5
    assert describe_outcome(expectation, False, observed, count, percent) == expected


def test_report_survives_the_ledger_and_a_warning_does_not_fail_it() -> None:
    warning = CheckResult("expect_x", "x", "warning", False, "x is odd: 2 rows (1 %) do not.", None, 2, 1.0)
    passed = CheckResult("expect_y", "y", "critical", True, "y: holds.")
    report = CheckReport("t for 2026-01-01", (passed, warning), 200, 0.5)
    assert report.success
    assert report.warnings == (warning,)
    assert report.sentence == "t for 2026-01-01: 1 expectations hold over 200 rows."
    assert CheckReport.from_dict(report.to_dict()) == report


@pytest.mark.parametrize(
    ("validation", "rows", "success", "words"),
    [
        (date(2026, 5, 1), 10, True, "61 days or more"),
        (date(2026, 2, 1), 10, False, "Labels of train reach into validation: 31 days"),
        (date(2026, 5, 1), 0, False, "The validation split is empty."),
    ],
)
def test_separation_refuses_splits_that_a_label_reaches_across(
    validation: date, rows: int, success: bool, words: str
) -> None:
    as_of = {"train": [date(2025, 12, 1), date(2026, 1, 1)], "validation": [validation], "test": [date(2026, 7, 1)]}
    found = check_splits(as_of, {"train": 5, "validation": rows, "test": 5}, horizon_days=60)
    assert found.success is success
    assert words in found.sentence
