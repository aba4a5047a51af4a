"""Aggregates in SQL whose results depend neither on the order of rows nor on the engine."""

from collections.abc import Callable
from dataclasses import replace

from forecache.declare.sql.values import (
    BIGINT,
    BOOLEAN,
    DOUBLE,
    NULL,
    Arguments,
    RefusedSqlError,
    Value,
    convert,
    require,
    require_comparable,
    take,
    to_double,
    unsigned_zero,
    whole_number,
    write,
)

Over = tuple[str, str]
_LARGEST_SUMMED = 2**44
_PART = 2**32


def _count(values: Arguments, over: Over) -> Value:
    take("count", values, 1, 1)
    return write(BIGINT, values, "count({0}){w}", over=over)


def _sum_doubles(value: Value, over: Over) -> Value:
    """The sum as windows have it: exact in steps of 2**-32, so that the order of rows does not matter."""
    refuse = "summed values lie within 2**44, and one does not"
    finite = write(
        DOUBLE,
        [value],
        f"CASE WHEN abs({{0}}) < {_LARGEST_SUMMED} THEN {{0}} "
        f"WHEN abs({{0}}) < CAST('Infinity' AS DOUBLE) THEN CAST(error('{refuse}') AS DOUBLE) END",
        f"CASE WHEN abs({{0}}) < {_LARGEST_SUMMED} THEN {{0}} "
        f"WHEN abs({{0}}) < CAST('Infinity' AS DOUBLE) THEN CAST(raise_error('{refuse}') AS DOUBLE) END",
    )
    whole = write(BIGINT, [finite], "CAST(floor({0}) AS BIGINT)")
    part = write(
        BIGINT,
        [finite],
        f"CAST(({{0}} - floor({{0}})) * {_PART} AS BIGINT)",
        f"CAST(rint(({{0}} - floor({{0}})) * {_PART}) AS BIGINT)",
    )
    sums = [write(BIGINT, [each], "CAST(sum({0}){w} AS BIGINT)", over=over) for each in (whole, part)]
    carried = f"CAST({{0}} + {{1}} // {_PART} AS DOUBLE) + CAST({{1}} % {_PART} AS DOUBLE) / CAST({_PART} AS DOUBLE)"
    return write(DOUBLE, sums, f"({carried})", f"({carried.replace('//', 'div')})")


def _finite(value: Value) -> Value:
    return write(value.type, [value], "CASE WHEN abs({0}) < CAST('Infinity' AS DOUBLE) THEN {0} END")


def _sum(values: Arguments, over: Over) -> Value:
    take("sum", values, 1, 1)
    value = require(values[0], "sum()", "double", "bigint", "decimal")
    if value.type == DOUBLE:
        return _sum_doubles(value, over)
    return write(value.type, [value], f"CAST(sum({{0}}){{w}} AS {value.type.sql})", over=over)


def _avg(values: Arguments, over: Over) -> Value:
    take("avg", values, 1, 1)
    value = require(values[0], "avg()", "double", "bigint", "decimal")
    total = convert(_sum([value], over), DOUBLE)
    count = _count([_finite(value) if value.type == DOUBLE else value], over)
    return write(DOUBLE, [total, count], "({0} / CAST(nullif({1}, 0) AS DOUBLE))")


def _extreme(name: str) -> Callable[[Arguments, Over], Value]:
    def compute(values: Arguments, over: Over) -> Value:
        take(name, values, 1, 1)
        value = require(values[0], f"{name}()", "bigint", "double", "decimal", "string", "date", "timestamp")
        found = write(value.type, [unsigned_zero(value)], f"{name}({{0}}){{w}}", over=over)
        return replace(found, is_as_of=values[0].is_as_of)

    return compute


def _at_extreme(name: str, extreme: str) -> Callable[[Arguments, Over], Value]:
    """The value at the extreme of another, and of several there the extreme one, as in a window "last"."""

    def compute(values: Arguments, over: Over) -> Value:
        take(name, values, 2, 2)
        value, by = (unsigned_zero(each) for each in values)
        if NULL in (value.type, by.type):
            raise RefusedSqlError(f"calls {name}() with null", "Name two columns.")
        known = "{0} IS NOT NULL AND {1} IS NOT NULL"
        return write(
            value.type,
            [value, by],
            f"struct_extract({extreme}(CASE WHEN {known} THEN struct_pack(a := {{1}}, b := {{0}}) END){{w}}, 'b')",
            f"{extreme}(CASE WHEN {known} THEN named_struct('a', {{1}}, 'b', {{0}}) END){{w}}.b",
            over=over,
        )

    return compute


def _both(name: str) -> Callable[[Arguments, Over], Value]:
    def compute(values: Arguments, over: Over) -> Value:
        take(name, values, 1, 1)
        return write(BOOLEAN, [require(values[0], f"{name}()", "boolean")], f"{name}({{0}}){{w}}", over=over)

    return compute


def _median(values: Arguments, over: Over) -> Value:
    """The middle value, or the mean of both: each engine interpolates by a formula of its own."""
    take("median", values, 1, 1)
    if over[0]:
        raise RefusedSqlError("has median() over a window", "Compute it in a subquery with `group by`.")
    value = unsigned_zero(to_double(values[0], "median()"))
    lower = write(DOUBLE, [value], "percentile_disc(0.5) WITHIN GROUP (ORDER BY {0})")
    upper = write(DOUBLE, [value], "percentile_disc(0.5) WITHIN GROUP (ORDER BY {0} DESC)")
    return write(DOUBLE, [lower, upper], "(({0} + {1}) / CAST(2 AS DOUBLE))")


AGGREGATES: dict[str, Callable[[Arguments, Over], Value]] = {
    "count": _count,
    "sum": _sum,
    "avg": _avg,
    "min": _extreme("min"),
    "max": _extreme("max"),
    "arg_max": _at_extreme("arg_max", "max"),
    "arg_min": _at_extreme("arg_min", "min"),
    "bool_and": _both("bool_and"),
    "bool_or": _both("bool_or"),
    "median": _median,
}


def count_rows(over: Over) -> Value:
    return replace(write(BIGINT, [], "count(*){w}", over=over), constant=None)


def count_different(value: Value) -> Value:
    return write(BIGINT, [require_comparable(value, "count(distinct)")], "count(DISTINCT {0})")


def when(condition: Value, value: Value) -> Value:
    """The value of rows that meet a condition, and null of others, which no aggregate counts."""
    return write(value.type, [condition, value], "CASE WHEN {0} THEN {1} END")


ONE = whole_number(1)
