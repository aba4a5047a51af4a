"""The expectations that follow from the declaration, and those that the user adds, for each kind of table."""

from collections.abc import Sequence
from typing import Any

from forecache.declare import (
    AS_OF,
    PROVENANCE_COLUMNS,
    Expectation,
    FeatureView,
    Pipeline,
    Source,
    expect,
)
from forecache.declare.served import PluginTable

EXPECTATIONS, WARNINGS = "meets_expectations", "has_no_warnings"
"""The names of the checks of a table in Dagster and in alerts; below those of raw tables, and of predictions."""
RECONCILES, READ = "adds_up_to_what_landed", "files_are_read"
DRIFT = "has_not_drifted"


def raw_expectations(source: Source) -> tuple[Expectation, ...]:
    """For a raw table: the guarantees of ingestion about each column, and the source's own expectations."""
    derived = [expect("expect_column_values_to_not_be_null", column="event_day")]
    for column in source.columns:
        if column.required:
            derived.append(expect("expect_column_values_to_not_be_null", column=column.name))
        if column.minimum is not None or column.maximum is not None:
            derived.append(_range_expectation(column.name, column.minimum, column.maximum))
    if source.unique:
        derived.append(_unique_expectation(source.unique))
    return (*derived, *source.expectations)


def feature_expectations(declared: FeatureView | Pipeline) -> tuple[Expectation, ...]:
    """For one as-of date of the feature table: it has rows, each entity once, and meets the features' expectations."""
    return (*_key_expectations(declared.key), *declared.feature_expectations)


def prediction_expectations(pipeline: Pipeline) -> tuple[Expectation, ...]:
    """For one as-of date of the prediction table: each entity once, outputs present and in range, with provenance."""
    columns = (*pipeline.output_columns, *PROVENANCE_COLUMNS)
    derived = [expect("expect_column_values_to_not_be_null", column=column) for column in columns]
    for output in pipeline.output_specs:
        if output.minimum is not None or output.maximum is not None:
            derived += [_range_expectation(column, output.minimum, output.maximum) for column in output.numbers]
        if output.kind == "classes" and output.classes:
            labels = list(output.classes)
            derived.append(expect("expect_column_values_to_be_in_set", column=output.name, value_set=labels))
    for segment in pipeline.segments:
        labels = list(segment.labels)
        derived.append(expect("expect_column_values_to_be_in_set", column=segment.name, value_set=labels))
    return (*_key_expectations(pipeline.key), *derived, *pipeline.expectations)


def made_expectations(table: PluginTable) -> tuple[Expectation, ...]:
    """For one as-of date of a plug-in's table: each key once, with all outputs and with provenance."""
    columns = (*table.output_columns, *PROVENANCE_COLUMNS)
    derived = [expect("expect_column_values_to_not_be_null", column=column) for column in columns]
    return (*_key_expectations(table.key), *derived)


def _key_expectations(names: Sequence[str]) -> tuple[Expectation, ...]:
    key = (*names, AS_OF)
    return (
        expect("expect_table_row_count_to_be_between", min_value=1),
        *(expect("expect_column_values_to_not_be_null", column=column) for column in key),
        _unique_expectation(key),
    )


def _unique_expectation(columns: tuple[str, ...]) -> Expectation:
    if len(columns) == 1:
        return expect("expect_column_values_to_be_unique", column=columns[0])
    return expect("expect_compound_columns_to_be_unique", column_list=list(columns))


def _range_expectation(column: str, minimum: float | None, maximum: float | None) -> Expectation:
    bounds = {"min_value": minimum, "max_value": maximum}
    given: dict[str, Any] = {name: value for name, value in bounds.items() if value is not None}
    return Expectation("expect_column_values_to_be_between", {"column": column, **given})
