"""Descriptions of expectations and of the outcomes of their checks, in plain English."""

from collections.abc import Mapping
from typing import Any

from forecache.declare import Expectation


def describe_outcome(
    expectation: Expectation,
    success: bool,
    observed: object,
    unexpected_count: int | None,
    unexpected_percent: float | None,
) -> str:
    """Describe an expectation in one sentence and, if it failed, by how much."""
    wanted = f"{', '.join(expectation.columns) or 'The table'} {_describe_requirement(expectation)}"
    if success:
        return f"{wanted}: holds."
    if unexpected_count is not None:
        return f"{wanted}: {unexpected_count:,} rows ({unexpected_percent:.3g} %) do not."
    return f"{wanted}: it is {_format_value(observed)}."


def _describe_requirement(expectation: Expectation) -> str:
    arguments = expectation.arguments
    demands = {
        "expect_column_values_to_not_be_null": "must not be null",
        "expect_column_values_to_be_unique": "must be unique",
        "expect_compound_columns_to_be_unique": "must be unique together",
        "expect_table_row_count_to_be_between": f"must have {_format_bounds(arguments)} rows",
        "expect_column_values_to_be_between": f"must be {_format_bounds(arguments)}",
        "expect_column_values_to_be_in_set": f"must be one of {arguments.get('value_set')}",
        "expect_column_values_to_match_regex": f"must match {arguments.get('regex')}",
    }
    if expectation.type in demands:
        return demands[expectation.type]
    about = {"column", "column_A", "column_B", "column_list"}
    rest = ", ".join(f"{name}={value!r}" for name, value in arguments.items() if name not in about)
    return expectation.type.removeprefix("expect_").replace("_", " ") + (f" ({rest})" if rest else "")


def _format_bounds(arguments: Mapping[str, Any]) -> str:
    low, high = arguments.get("min_value"), arguments.get("max_value")
    if low is not None and high is not None:
        return f"{_format_value(low)} to {_format_value(high)}"
    if low is not None:
        return f"at least {_format_value(low)}"
    return f"at most {_format_value(high)}"


def _format_value(value: object) -> str:
    return f"{value:,.6g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
