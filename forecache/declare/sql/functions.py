"""The functions that SQL of a declaration may call: those that DuckDB and Spark compute to equal bits.

`tests/integration/test_sql_equal.py` compares each of them on both engines.
"""

from collections.abc import Callable
from dataclasses import replace

from forecache.declare.sql.aggregates import AGGREGATES
from forecache.declare.sql.moments import DATE_FUNCTIONS
from forecache.declare.sql.values import (
    BIGINT,
    BOOLEAN,
    DOUBLE,
    STRING,
    Arguments,
    RefusedSqlError,
    SqlType,
    Value,
    convert,
    require,
    take,
    take_constant,
    unite,
    unsigned_zero,
    write,
)

_EXACT = 2**52  # from here on each double is a whole number


def _numbers(name: str, values: Arguments, least: int, most: int) -> Value:
    take(name, values, least, most)
    return require(values[0], f"{name}()", "double", "bigint", "decimal")


def _texts(name: str, values: Arguments, least: int, most: int) -> list[Value]:
    take(name, values, least, most)
    return [require(value, f"{name}()", "string") for value in values]


def _abs(name: str, values: Arguments) -> Value:
    value = _numbers(name, values, 1, 1)
    return write(value.type, [value], "abs({0})")


def _round(name: str, values: Arguments) -> Value:
    value = _numbers(name, values, 1, 2)
    places = take_constant(name, values[1], int) if len(values) == 2 else 0
    assert isinstance(places, int)
    if value.type == BIGINT:
        return value
    if value.type.name == "decimal":
        kind = SqlType("decimal", min(places, value.type.scale))
        return write(kind, [value], f"CAST(round({{0}}, {kind.scale}) AS {kind.sql})")
    if not places:
        return unsigned_zero(write(DOUBLE, [value], "round({0})", "CAST(round({0}) AS DOUBLE)"))
    factor = f"CAST({10**places} AS DOUBLE)"
    return unsigned_zero(write(DOUBLE, [value], f"(round({{0}} * {factor}) / {factor})"))


def _to_whole(name: str, values: Arguments) -> Value:
    value = _numbers(name, values, 1, 1)
    if value.type == BIGINT:
        return value
    value = convert(value, DOUBLE)
    cut = "CAST({0} AS BIGINT)" if name == "trunc" else f"{name}({{0}})"
    spark = f"CASE WHEN abs({{0}}) < CAST({_EXACT} AS DOUBLE) THEN CAST({cut} AS DOUBLE) ELSE {{0}} END"
    return unsigned_zero(write(DOUBLE, [value], f"{name}({{0}})", spark))


def _sign(name: str, values: Arguments) -> Value:
    value = _numbers(name, values, 1, 1)
    return write(
        BIGINT, [value], "CAST(CASE WHEN {0} > 0 THEN 1 WHEN {0} < 0 THEN -1 WHEN {0} = 0 THEN 0 END AS BIGINT)"
    )


def _sqrt(name: str, values: Arguments) -> Value:
    value = convert(_numbers(name, values, 1, 1), DOUBLE)
    return write(DOUBLE, [value], "sqrt(CASE WHEN {0} >= 0 THEN {0} END)")


def _choice(name: str, values: Arguments) -> Value:
    take(name, values, 1 if name == "coalesce" else 2, 100)
    united = unite(values, f"{name}()")
    united = united if name == "coalesce" else [unsigned_zero(value) for value in united]
    if united[0].type == BOOLEAN and name != "coalesce":
        raise RefusedSqlError(f"has {name}() of booleans", "Use `and`, `or`.")
    places = ", ".join(f"{{{place}}}" for place in range(len(values)))
    chosen = write(united[0].type, united, f"{name}({places})")
    return replace(chosen, is_as_of=name == "coalesce" and all(value.is_as_of for value in values))


def _nullif(name: str, values: Arguments) -> Value:
    take(name, values, 2, 2)
    first, second = unite(values, "nullif()")
    return write(first.type, [first, second], "nullif({0}, {1})")


_UPPER, _LOWER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz"


def _letters(name: str, values: Arguments) -> Value:
    """Change the case of A to Z alone: other letters depend on the engine's tables."""
    have, want = (_UPPER, _LOWER) if name == "lower" else (_LOWER, _UPPER)
    return write(STRING, _texts(name, values, 1, 1), f"translate({{0}}, '{have}', '{want}')")


def _length(name: str, values: Arguments) -> Value:
    return write(BIGINT, _texts(name, values, 1, 1), "CAST(length({0}) AS BIGINT)")


def _substring(name: str, values: Arguments) -> Value:
    take(name, values, 2, 3)
    text, numbers = require(values[0], f"{name}()", "string"), [take_constant(name, values[1], int, 1)]
    numbers += [take_constant(name, value, int) for value in values[2:]]
    return write(STRING, [text], f"substring({{0}}, {', '.join(map(str, numbers))})")


def _ends(name: str, values: Arguments) -> Value:
    take(name, values, 2, 2)
    return write(
        STRING, [require(values[0], f"{name}()", "string")], f"{name}({{0}}, {take_constant(name, values[1], int)})"
    )


def _trim(name: str, values: Arguments) -> Value:
    side = {"trim": "BOTH", "ltrim": "LEADING", "rtrim": "TRAILING"}[name]
    return write(STRING, _texts(name, values, 1, 1), f"{name}({{0}}, ' ')", f"trim({side} ' ' FROM {{0}})")


def _replace(name: str, values: Arguments) -> Value:
    texts = _texts(name, values, 3, 3)
    take_constant(name, texts[1], str)
    return write(STRING, texts, "replace({0}, {1}, {2})")


def _search(name: str, values: Arguments) -> Value:
    spark = {"contains": "contains", "starts_with": "startswith", "ends_with": "endswith"}[name]
    return write(BOOLEAN, _texts(name, values, 2, 2), f"{name}({{0}}, {{1}})", f"{spark}({{0}}, {{1}})")


def _concat(name: str, values: Arguments) -> Value:
    texts = _texts(name, values, 1, 100)
    return write(
        STRING, texts, f"concat({', '.join(f'coalesce({{{place}}}, {EMPTY})' for place in range(len(texts)))})"
    )


EMPTY = "''"


SCALARS: dict[str, Callable[[str, Arguments], Value]] = {
    "abs": _abs,
    "round": _round,
    **dict.fromkeys(("floor", "ceil", "trunc"), _to_whole),
    "sign": _sign,
    "sqrt": _sqrt,
    **dict.fromkeys(("coalesce", "greatest", "least"), _choice),
    "nullif": _nullif,
    **dict.fromkeys(("lower", "upper"), _letters),
    "length": _length,
    "substring": _substring,
    **dict.fromkeys(("left", "right"), _ends),
    **dict.fromkeys(("trim", "ltrim", "rtrim"), _trim),
    "replace": _replace,
    **dict.fromkeys(("contains", "starts_with", "ends_with"), _search),
    "concat": _concat,
    **DATE_FUNCTIONS,
}


RANKS = ("rank", "dense_rank")
ROW_FUNCTIONS = ("lag", "lead", "row_number")
"""Functions over windows in which no two rows tie."""
SYNONYMS = {
    "mean": "avg",
    "max_by": "arg_max",
    "min_by": "arg_min",
    "ceiling": "ceil",
    "substr": "substring",
    "datediff": "date_diff",
    "datepart": "date_part",
    "datetrunc": "date_trunc",
    "day_of_month": "day",
    "dayofmonth": "day",
    "weekofyear": "week",
    "char_length": "length",
    "ucase": "upper",
    "lcase": "lower",
    "prefix": "starts_with",
    "every": "bool_and",
}
_REFUSED = {
    **dict.fromkeys(
        ("now", "today", "current_date", "current_timestamp", "get_current_timestamp"), "Use `as_of`, the as-of date."
    ),
    **dict.fromkeys(("random", "rand", "uuid", "gen_random_uuid"), "Use what is equal in each run, such as a key."),
    **dict.fromkeys(
        (
            *("first", "last", "any_value", "arbitrary", "first_value", "last_value", "nth_value"),
            *("ntile", "mode"),
        ),
        "It depends on the order of rows: use arg_max(value, time), min(), max() or lag().",
    ),
    **dict.fromkeys(
        ("list", "array_agg", "string_agg", "group_concat", "listagg"),
        "It depends on the order of rows: use count() or max().",
    ),
    **dict.fromkeys(
        ("quantile", "quantile_cont", "quantile_disc", "approx_quantile", "percentile_cont", "percentile_disc"),
        "Use median(), min() or max().",
    ),
    "approx_count_distinct": "Use count(distinct x).",
    **dict.fromkeys(
        ("ln", "log", "log10", "log2", "exp", "pow", "power", "sin", "cos", "tan"),
        "Its last bits depend on the engine: give the feature `log=True`, or leave it to the model.",
    ),
    **dict.fromkeys(
        ("stddev", "stddev_samp", "stddev_pop", "variance", "var_samp", "var_pop", "corr", "covar_pop", "covar_samp"),
        "It depends on the order of rows: use sum(x) and sum(x * x).",
    ),
}


def refused_function(name: str) -> RefusedSqlError:
    """The error for a function that is not among those above."""
    if name in (*RANKS, *ROW_FUNCTIONS):
        return RefusedSqlError(f"calls {name}() without a window", "Write `over (partition by ... order by ...)`.")
    known = ", ".join(sorted([*SCALARS, *AGGREGATES, *RANKS, *ROW_FUNCTIONS]))
    return RefusedSqlError(f"calls {name}()", _REFUSED.get(name, f"Functions are {known}."))
