"""Expectations evaluated by DuckDB, against Great Expectations on Spark over the same rows."""

import random
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet
import pytest

from forecache.declare import Expectation, expect
from forecache.lake.quality.evaluate import _PLANS, evaluate, plan_checks
from forecache.lake.quality.regular_expressions import translate_regex
from forecache.lake.quality.validate import make_result, validate

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import SparkSession

NIGHT = date(2026, 1, 1)
SCHEMA = pa.schema(
    {
        "whole": pa.int64(), "small": pa.int32(), "number": pa.float64(), "single": pa.float32(),
        "price": pa.decimal128(10, 2), "text": pa.string(), "day": pa.date32(), "flag": pa.bool_(),
        "nothing": pa.float64(), "as_of": pa.date32(),
    }
)  # fmt: skip
NUMBERS = ("whole", "small", "number", "single", "nothing")
TEXTS = [
    "a",
    "ab",
    "b7",
    "",
    "A-1",
    "x\n",
    "ü",
    "7",
    "a b",
    "\U0001f600\U0001f600",
    "ab\r\n",
    "a\x0b",
    "aa",
    "a.b",
    "\u2028",
]
REGEXES = [
    "^a", "b$", "^[a-z]+$", "^[a-z0-9]{1,2}$", r"\d", r"^\w+$", r"\s", ".", "^.$", "a|b", "(a|b)+", "^(?:ab|A-1)$",
    r"a\.b",
    "[^a]", r"^\S*$", "^$", r"[\d-]", "x$", "(ab)?$",
]  # fmt: skip


RETURNS = [
    r"^[^a]{2}$",
    r"^[^,]{2}$",
    r"^\s$",
    r"^\D+$",
    r"^\W*$",
]  # not translated: they may take a part of a line break


def _value(dice: random.Random, name: str) -> Any:
    if dice.random() < 0.2:
        return None
    if name == "nothing":
        return None
    choices: dict[str, Sequence[Any]] = {
        "whole": [0, 1, -3, 2**53 + 1, 5],
        "small": [0, 1, 2, -7],
        "number": [0.0, 0.1, 1.5, float("nan"), -2.25, 0.3],
        "single": [0.0, 0.1, 1.5, float("nan"), 0.25, 2.0**24],
        "price": [Decimal("0.10"), Decimal("1.50"), Decimal("-3.00")],
        "text": TEXTS,
        "day": [date(2026, 1, day) for day in (1, 2, 3)],
        "flag": [True, False],
    }
    return dice.choice(choices[name])


def _rows(dice: random.Random, count: int) -> pa.Table:
    rows = [{name: _value(dice, name) for name in SCHEMA.names[:-1]} | {"as_of": NIGHT} for _ in range(count)]
    return pa.Table.from_pylist(rows, SCHEMA)


def _bounds(dice: random.Random, low: Any, high: Any) -> dict[str, Any]:
    given = {"min_value": low, "max_value": high}
    for name in dice.choice([(), ("min_value",), ("max_value",)]):
        del given[name]
    strict = {name: True for name in ("strict_min", "strict_max") if dice.random() < 0.3}
    return given | strict


def _expectations(dice: random.Random, rows: int) -> list[Expectation]:
    found: list[Expectation] = []

    def add(type_: str, **arguments: Any) -> None:
        mostly = (
            {"mostly": dice.choice([0.5, 0.8, 1.0])}
            if type_.startswith("column_values_to") and "unique" not in type_
            else {}
        )
        found.append(expect(f"expect_{type_}", **arguments, **mostly))

    for name in SCHEMA.names:
        add("column_values_to_not_be_null", column=name)
        add("column_values_to_be_null", column=name)
        add("column_values_to_be_unique", column=name)
        add("column_unique_value_count_to_be_between", column=name, **_bounds(dice, 1, 4))
        add("column_proportion_of_unique_values_to_be_between", column=name, **_bounds(dice, 0.1, 0.5))
        add("column_proportion_of_non_null_values_to_be_between", column=name, **_bounds(dice, 0.1, 0.9))
    for name in NUMBERS:
        add("column_values_to_be_between", column=name, **_bounds(dice, 0, 1))
        add("column_values_to_be_between", column=name, **_bounds(dice, 0.1, 1.5))
        add("column_values_to_be_between", column=name, **_bounds(dice, 2**24 + 1, 2**53))
        for aggregate in ("min", "max", "mean", "sum", "stdev", "median"):
            add(f"column_{aggregate}_to_be_between", column=name, **_bounds(dice, -1.0, 2))
    add("column_values_to_be_between", column="price", **_bounds(dice, 0.1, 1.5))
    add("column_values_to_be_between", column="price", **_bounds(dice, -3, 1))
    for name in ("column_values", "column_min", "column_max"):
        add(f"{name}_to_be_between", column="day", **_bounds(dice, date(2026, 1, 2), date(2026, 1, 2)))
    for kind in ("be_in_set", "not_be_in_set"):
        add(f"column_values_to_{kind}", column="text", value_set=["a", "", "ü"])
        add(f"column_values_to_{kind}", column="whole", value_set=[0, 2**53 + 1])
        add(f"column_values_to_{kind}", column="number", value_set=[0.1, 1.5, 0])
        add(f"column_values_to_{kind}", column="single", value_set=[0.1, 1.5, 0])
    for regex in dice.sample(REGEXES, 8):
        add("column_values_to_match_regex", column="text", regex=regex)
        add("column_values_to_not_match_regex", column="text", regex=regex)
    add("column_value_lengths_to_be_between", column="text", **_bounds(dice, 0, 2))
    add("column_value_lengths_to_equal", column="text", value=2)
    add("compound_columns_to_be_unique", column_list=["whole", "text"])
    add("compound_columns_to_be_unique", column_list=["number", "as_of"])
    add("table_row_count_to_be_between", **_bounds(dice, 1, rows))
    add("table_row_count_to_equal", value=rows)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "rows"), [(1, 200), (2, 5), (4, 0)])
def test_duckdb_finds_what_great_expectations_finds(
    spark: "SparkSession", tmp_path: "Path", seed: int, rows: int
) -> None:
    dice = random.Random(seed)
    data, expectations = _rows(dice, rows), _expectations(dice, rows)
    assert {each.type for each in expectations} == set(_PLANS)
    file = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(data, file)
    expected = validate(spark.read.parquet(str(file)), expectations, name="rows")

    with duckdb.connect() as connection:
        connection.register("rows", data)
        types = {name: str(kind) for name, kind, *_ in connection.execute("DESCRIBE rows").fetchall()}
        checks = plan_checks(expectations, types)
        assert checks is not None
        [(found_rows, outcomes)] = evaluate(
            connection, "rows", checks, types, column="as_of", dates=[NIGHT]
        ).values()  # fmt: skip
    assert found_rows == expected.rows == rows
    for expectation, outcome, wanted in zip(expectations, outcomes, expected.results, strict=True):
        found = make_result(expectation, *outcome, rows)
        assert (found.success, found.unexpected_count, found.unexpected_percent) == (
            wanted.success, wanted.unexpected_count, wanted.unexpected_percent,
        ), (expectation, found, wanted)  # fmt: skip
        if isinstance(wanted.observed, float):
            assert found.observed == pytest.approx(wanted.observed, rel=1e-12), expectation
        else:
            assert found.observed == wanted.observed, expectation


def test_each_date_of_several_has_an_outcome_of_its_own(tmp_path: "Path") -> None:
    days = [date(2026, 1, day) for day in (1, 2, 3)]
    data = pa.table({"id": ["a", "a", "a", "b"], "as_of": pa.array([days[0], days[0], days[1], days[1]], pa.date32())})
    expectations = [expect("expect_column_values_to_be_unique", column="id")]
    with duckdb.connect() as connection:
        connection.register("rows", data)
        types = {"id": "VARCHAR", "as_of": "DATE"}
        checks = plan_checks(expectations, types)
        assert checks is not None
        found = evaluate(connection, "rows", checks, types, column="as_of", dates=days)
    assert {day: (rows, *outcome) for day, (rows, [outcome]) in found.items()} == {
        days[0]: (2, False, None, 1), days[1]: (2, True, None, 0), days[2]: (0, True, None, 0),
    }  # fmt: skip


@pytest.mark.parametrize(
    "unknown",
    [
        expect("expect_column_quantile_values_to_be_between", column="n", quantile_ranges={}),
        expect("expect_column_values_to_be_between", column="n", min_value="1"),
        expect("expect_column_values_to_be_between", column="s", min_value="1"),
        expect("expect_column_values_to_be_between", column="n", min_value=2, max_value=1),
        expect("expect_column_values_to_be_between", column="n"),
        expect("expect_column_values_to_be_between", column="n", min_value=1, row_condition="n > 2"),
        expect("expect_column_values_to_be_between", column="n", min_value=float("nan")),
        expect("expect_column_values_to_be_between", column="n", min_value=2**63),
        expect("expect_column_values_to_not_be_null", column="n", mostly=2),
        expect("expect_column_values_to_be_in_set", column="n", value_set=[1, "a"]),
        expect("expect_column_values_to_be_in_set", column="n", value_set=[]),
        expect("expect_column_values_to_be_in_set", column="flag", value_set=[True]),
        expect("expect_column_values_to_match_regex", column="s", regex="(?i)a"),
        expect("expect_column_values_to_match_regex", column="n", regex="a"),
        expect("expect_column_mean_to_be_between", column="day", min_value=1),
        expect("expect_column_value_lengths_to_equal", column="n", value=1),
        expect("expect_table_row_count_to_equal", value=1.5),
    ],
)
def test_what_may_mean_something_else_here_is_left_to_great_expectations(unknown: Expectation) -> None:
    types = {"n": "BIGINT", "s": "VARCHAR", "day": "DATE", "flag": "BOOLEAN"}
    assert plan_checks([unknown], types) is None


@pytest.mark.parametrize(
    "regex",
    [
        "(?=a)",
        r"a\b",
        r"(a)\1",
        "a++",
        "[a[b]]",
        "[a&&b]",
        "(a",
        "a)",
        "[a",
        "a{",
        "*a",
        "a$b",
        "(a$)b",
        "b^",
        r"\p{L}",
        "\\",
        "a**",
        *RETURNS,
    ],
)
def test_a_regular_expression_that_re2_may_read_otherwise_is_not_translated(regex: str) -> None:
    assert translate_regex(regex) is None


@pytest.mark.slow
def test_translated_regular_expressions_match_what_java_matches(spark: "SparkSession") -> None:
    from pyspark.sql import functions as F

    dice = random.Random(7)
    parts = ["a", "b", "7", ".", r"\d", r"\w", r"\s", r"\.", "[a-c]", "[^a]", r"[\d_-]", "(a|b)", "(?:7|ü)", "x", " "]
    regexes = {*REGEXES, *RETURNS}
    while len(regexes) < 120:
        body = "".join(dice.choice(parts) + dice.choice(["", "", "*", "+", "?", "{1,2}", "*?"]) for _ in range(3))
        regexes.add(dice.choice(["", "^"]) + body + dice.choice(["", "$", "|b$"]))
    texts = [
        *TEXTS,
        "\r\n",
        "b\r\n",
        *("".join(dice.choices("ab7_- .ü\n\r\x0b\x85x", k=dice.randrange(5))) for _ in range(200)),
    ]
    rows = spark.createDataFrame([(text,) for text in texts], "text string")
    ordered = sorted(regexes)
    columns = [F.col("text").rlike(regex).alias(f"r{number}") for number, regex in enumerate(ordered)]
    java = rows.select(*columns).collect()
    num_compared = 0
    with duckdb.connect() as connection:
        for number, regex in enumerate(ordered):
            translated = translate_regex(regex)
            if translated is None:
                assert "$" in regex, "what may end in a line break"
                continue
            num_compared += 1
            found = connection.execute(
                "SELECT list(regexp_matches(t, ?)) FROM (SELECT unnest(?) AS t)", [translated, texts]
            ).fetchone()
            assert found is not None
            assert found[0] == [row[number] for row in java], regex
    assert num_compared > 80
