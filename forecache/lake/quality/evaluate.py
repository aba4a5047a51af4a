"""Expectations evaluated by DuckDB on the files of a Delta table, without Spark and without Great Expectations' import.

Each expectation becomes a few aggregates, and those of all expectations are one query with a group for each date. What
is counted and how it is judged is Great Expectations' (`tests/integration/test_quality_evaluate.py` compares both). An
expectation of another type, or with arguments or a column of a type that are not known to mean the same here and there,
is left to Great Expectations.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, NamedTuple

from forecache.declare import Expectation
from forecache.lake.quality.regular_expressions import translate_regex
from forecache.lake.query import quote_name

INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT"}
FLOATS = {"FLOAT", "DOUBLE"}
_BOUNDS = ("min_value", "max_value", "strict_min", "strict_max")


class CheckOutcome(NamedTuple):
    """Finding of an expectation: an aggregate, or the number of rows that violate it."""

    success: bool
    observed: Any = None
    unexpected_count: int | None = None


@dataclass(frozen=True)
class PlannedCheck:
    """An expectation as aggregates in SQL, with the values of their parameters, and how these are judged.

    `judge` gets the number of rows of the date and the values of the aggregates.
    """

    aggregates: tuple[str, ...]
    parameters: tuple[Any, ...]
    judge: Callable[[int, Sequence[Any]], CheckOutcome]


def plan_checks(expectations: Sequence[Expectation], types: Mapping[str, str]) -> list[PlannedCheck] | None:
    """Plan the aggregates of expectations, by DuckDB's types of the table's columns; None if one is not known here."""
    checks = []
    for expectation in expectations:
        plan = _PLANS.get(expectation.type)
        if plan is None or any(column not in types for column in expectation.columns):
            return None
        check = plan(_Arguments(dict(expectation.arguments), types))
        if check is None:
            return None
        checks.append(check)
    return checks


def evaluate(
    connection: Any,
    table: str,
    checks: Sequence[PlannedCheck],
    types: Mapping[str, str],
    *,
    column: str,
    dates: Sequence[date],
) -> dict[date, tuple[int, list[CheckOutcome]]]:
    """Evaluate checks for dates of a table of a DuckDB connection: the rows of each date, and the outcomes in order.

    In it NaN counts as null. duckdb.Error if a value is out of an aggregate's range.
    """
    names = ", ".join(
        f"CASE WHEN isnan({quoted}) THEN NULL ELSE {quoted} END AS {quoted}" if kind in FLOATS else quoted
        for quoted, kind in ((quote_name(name), kind) for name, kind in types.items())
    )
    aggregates = ", ".join(["count(*)", *(text for check in checks for text in check.aggregates)])
    values = [value for check in checks for value in check.parameters]
    chosen = ", ".join(f"DATE '{day.isoformat()}'" for day in dates)
    rows = f"(SELECT {names} FROM {quote_name(table)} WHERE {quote_name(column)} IN ({chosen}))"
    found = connection.execute(
        f"SELECT {quote_name(column)}, {aggregates} FROM {rows} GROUP BY {quote_name(column)}", values
    ).fetchall()
    by_date = {day: row for day, *row in found}
    if by_date.keys() != set(dates):
        [nothing] = connection.execute(f"SELECT {aggregates} FROM {rows} WHERE false", values).fetchall()
        by_date = dict.fromkeys(dates, nothing) | by_date
    return {day: (by_date[day][0], _judge(checks, by_date[day])) for day in dates}


def _judge(checks: Sequence[PlannedCheck], row: Sequence[Any]) -> list[CheckOutcome]:
    outcomes, at = [], 1
    for check in checks:
        end = at + len(check.aggregates)
        outcomes.append(check.judge(row[0], row[at:end]))
        at = end
    return outcomes


class _Arguments:
    """The arguments of an expectation, and its column: `name` as SQL, and `kind`, DuckDB's type of it."""

    def __init__(self, given: dict[str, Any], types: Mapping[str, str]) -> None:
        self.given = given
        column = given.get("column")
        self.name = quote_name(column) if isinstance(column, str) else ""
        self.kind = types.get(column, "").partition("(")[0] if isinstance(column, str) else ""

    def has_only(self, *names: str) -> bool:
        return set(self.given) <= {"column", *names}

    @property
    def signs(self) -> dict[str, str]:
        """The comparison of a value with each bound."""
        is_strict = [self.given.get(name) for name in ("strict_min", "strict_max")]
        return {"min_value": ">" if is_strict[0] else ">=", "max_value": "<" if is_strict[1] else "<="}

    @property
    def mostly(self) -> float | None:
        """The share of rows that has to meet the expectation; None if it is not a number from 0 to 1."""
        mostly = self.given.get("mostly", 1.0)
        return mostly if _is_number(mostly) and 0 <= mostly <= 1 else None


def _is_number(value: object) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_date(value: object) -> bool:
    return isinstance(value, date) and not isinstance(value, datetime)


_FITS: dict[str, Callable[[object], bool]] = {
    **dict.fromkeys((*INTEGERS, *FLOATS, "DECIMAL"), _is_number),
    "VARCHAR": _is_text,
    "DATE": _is_date,
}


def _parameter(value: Any) -> str:
    """A parameter of the query; decimals of Python's floats would be compared as decimals."""
    return "CAST(? AS DOUBLE)" if isinstance(value, float) else "?"


# Expectations about each row.


def _plan_rows(arguments: _Arguments, condition: str, parameters: Sequence[Any] = ()) -> PlannedCheck | None:
    """Plan an expectation that each value that is not null meets a condition, or `mostly` of them."""
    mostly = arguments.mostly
    if mostly is None:
        return None

    def judge(rows: int, values: Sequence[Any]) -> CheckOutcome:
        present, unexpected = values
        return CheckOutcome(not present or (present - unexpected) / present >= mostly, None, unexpected)

    unexpected = f"count(*) FILTER (WHERE {arguments.name} IS NOT NULL AND NOT ({condition}))"
    return PlannedCheck((f"count({arguments.name})", unexpected), tuple(parameters), judge)


def _plan_null(*, is_wanted: bool) -> Callable[[_Arguments], PlannedCheck | None]:
    def plan(arguments: _Arguments) -> PlannedCheck | None:
        mostly = arguments.mostly
        if mostly is None or not arguments.name or not arguments.has_only("mostly"):
            return None

        def judge(rows: int, values: Sequence[Any]) -> CheckOutcome:
            unexpected = values[0] if is_wanted else rows - values[0]
            return CheckOutcome(not rows or (rows - unexpected) / rows >= mostly, None, unexpected)

        return PlannedCheck((f"count({arguments.name})",), (), judge)

    return plan


def _plan_between(arguments: _Arguments) -> PlannedCheck | None:
    given, fits = arguments.given, _FITS.get(arguments.kind)
    bounds = {name: given[name] for name in ("min_value", "max_value") if given.get(name) is not None}
    if (
        not bounds
        or fits in (None, _is_text)
        or not _has_bounds(given, fits)
        or not arguments.has_only(*_BOUNDS, "mostly")
    ):
        return None
    signs = arguments.signs
    # Great Expectations compares numbers as doubles.
    condition = " AND ".join(
        f"{arguments.name} {signs[name]} {'?' if arguments.kind == 'DATE' else 'CAST(? AS DOUBLE)'}" for name in bounds
    )
    return _plan_rows(arguments, condition, list(bounds.values()))


def _plan_set(*, is_wanted: bool) -> Callable[[_Arguments], PlannedCheck | None]:
    def plan(arguments: _Arguments) -> PlannedCheck | None:
        values = arguments.given.get("value_set")
        fits = _is_whole if arguments.kind in INTEGERS else _FITS.get(arguments.kind)
        is_known = isinstance(values, list | tuple) and arguments.kind in {*INTEGERS, *FLOATS, "VARCHAR"}
        if not is_known or not values or fits is None or not arguments.has_only("value_set", "mostly"):
            return None
        if not all(map(fits, values)):
            return None
        if arguments.kind in FLOATS:
            values = list(map(float, values))
        condition = f"{arguments.name} IN ({', '.join(map(_parameter, values))})"
        return _plan_rows(arguments, condition if is_wanted else f"NOT {condition}", values)

    return plan


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _plan_regex(*, is_wanted: bool) -> Callable[[_Arguments], PlannedCheck | None]:
    def plan(arguments: _Arguments) -> PlannedCheck | None:
        regex = arguments.given.get("regex")
        translated = translate_regex(regex) if isinstance(regex, str) else None
        if translated is None or arguments.kind != "VARCHAR" or not arguments.has_only("regex", "mostly"):
            return None
        condition = f"regexp_matches({arguments.name}, ?)"
        return _plan_rows(arguments, condition if is_wanted else f"NOT {condition}", [translated])

    return plan


def _plan_lengths(arguments: _Arguments) -> PlannedCheck | None:
    bounds = {name: arguments.given.get(name) for name in ("min_value", "max_value")}
    given = {name: value for name, value in bounds.items() if value is not None}
    is_known = arguments.kind == "VARCHAR" and arguments.has_only(*_BOUNDS, "mostly")
    if not is_known or not given or not all(map(_is_whole, given.values())):
        return None
    signs = arguments.signs
    condition = " AND ".join(f"length({arguments.name}) {signs[name]} ?" for name in given)
    return _plan_rows(arguments, condition, list(given.values()))


def _plan_length(arguments: _Arguments) -> PlannedCheck | None:
    value = arguments.given.get("value")
    if arguments.kind != "VARCHAR" or not _is_whole(value) or not arguments.has_only("value", "mostly"):
        return None
    return _plan_rows(arguments, f"length({arguments.name}) = ?", [value])


def _plan_unique(arguments: _Arguments) -> PlannedCheck | None:
    columns = arguments.given.get("column_list") or [arguments.given.get("column")]
    if not all(isinstance(column, str) for column in columns) or not arguments.has_only("column_list"):
        return None

    def judge(rows: int, values: Sequence[Any]) -> CheckOutcome:
        return CheckOutcome(values[0] == rows, None, rows - values[0])

    return PlannedCheck((f"count(DISTINCT row({', '.join(map(quote_name, columns))}))",), (), judge)


# Expectations about an aggregate.


def _plan_aggregate(
    aggregate: str, kinds: Collection[str], *, bounded_as: Collection[str] | None = None
) -> Callable[[_Arguments], PlannedCheck | None]:
    """Plan an expectation that an aggregate is between bounds; its column has one of the `kinds`."""

    def plan(arguments: _Arguments) -> PlannedCheck | None:
        kind = arguments.kind if bounded_as is None else next(iter(bounded_as))
        has_kind = not kinds or arguments.kind in kinds
        fits = _FITS.get(kind)
        if not has_kind or fits is None or not arguments.has_only(*_BOUNDS) or not _has_bounds(arguments.given, fits):
            return None

        def judge(rows: int, values: Sequence[Any]) -> CheckOutcome:
            return _judge_bounds(values[0], arguments.given)

        return PlannedCheck((aggregate.format(column=arguments.name),), (), judge)

    return plan


def _has_bounds(given: Mapping[str, Any], fits: Callable[[object], bool]) -> bool:
    """Tell if the bounds that are given are of a kind, and in order."""
    bounds = [given[name] for name in ("min_value", "max_value") if given.get(name) is not None]
    return all(map(fits, bounds)) and bounds == sorted(bounds)


def _judge_bounds(observed: Any, given: Mapping[str, Any]) -> CheckOutcome:
    if observed is None or observed != observed:  # NaN, of infinities
        return CheckOutcome(False, None, 0)
    low, high = given.get("min_value"), given.get("max_value")
    is_above = low is None or (observed > low if given.get("strict_min") else observed >= low)
    is_below = high is None or (observed < high if given.get("strict_max") else observed <= high)
    return CheckOutcome(bool(is_above and is_below), observed)


def _plan_row_count(arguments: _Arguments) -> PlannedCheck | None:
    given = arguments.given
    if not given.keys() <= {*_BOUNDS} or not _has_bounds(given, _is_whole):
        return None
    return PlannedCheck((), (), lambda rows, values: _judge_bounds(rows, given))


def _plan_exact_row_count(arguments: _Arguments) -> PlannedCheck | None:
    value = arguments.given.get("value")
    if arguments.given.keys() != {"value"} or not _is_whole(value):
        return None
    return PlannedCheck((), (), lambda rows, values: CheckOutcome(rows == value, rows))


_NUMBERS = (*(INTEGERS & {"INTEGER", "BIGINT"}), *FLOATS)
_PLANS: dict[str, Callable[[_Arguments], PlannedCheck | None]] = {
    "expect_column_values_to_not_be_null": _plan_null(is_wanted=False),
    "expect_column_values_to_be_null": _plan_null(is_wanted=True),
    "expect_column_values_to_be_between": _plan_between,
    "expect_column_values_to_be_in_set": _plan_set(is_wanted=True),
    "expect_column_values_to_not_be_in_set": _plan_set(is_wanted=False),
    "expect_column_values_to_match_regex": _plan_regex(is_wanted=True),
    "expect_column_values_to_not_match_regex": _plan_regex(is_wanted=False),
    "expect_column_value_lengths_to_be_between": _plan_lengths,
    "expect_column_value_lengths_to_equal": _plan_length,
    "expect_column_values_to_be_unique": _plan_unique,
    "expect_compound_columns_to_be_unique": _plan_unique,
    "expect_table_row_count_to_be_between": _plan_row_count,
    "expect_table_row_count_to_equal": _plan_exact_row_count,
    "expect_column_min_to_be_between": _plan_aggregate("min({column})", (*_NUMBERS, "DATE")),
    "expect_column_max_to_be_between": _plan_aggregate("max({column})", (*_NUMBERS, "DATE")),
    "expect_column_mean_to_be_between": _plan_aggregate("avg(CAST({column} AS DOUBLE))", _NUMBERS),
    "expect_column_sum_to_be_between": _plan_aggregate("sum(CAST({column} AS DOUBLE))", _NUMBERS),
    "expect_column_stdev_to_be_between": _plan_aggregate("stddev_samp(CAST({column} AS DOUBLE))", _NUMBERS),
    "expect_column_median_to_be_between": _plan_aggregate("median(CAST({column} AS DOUBLE))", _NUMBERS),
    "expect_column_unique_value_count_to_be_between": _plan_aggregate(
        "count(DISTINCT {column})", (), bounded_as=("BIGINT",)
    ),
    "expect_column_proportion_of_unique_values_to_be_between": _plan_aggregate(
        "coalesce(count(DISTINCT {column}) / nullif(count({column}), 0), 0)", (), bounded_as=("DOUBLE",)
    ),
    "expect_column_proportion_of_non_null_values_to_be_between": _plan_aggregate(
        "coalesce(count({column}) / nullif(count(*), 0), 0)", (), bounded_as=("DOUBLE",)
    ),
}
