"""SQL of declarations: each function and operator that it may have gives equal bits in DuckDB and in Spark."""

import math
import random
import struct
from collections.abc import Iterable
from datetime import date, datetime, timedelta, timezone
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from forecache.base.errors import SettingsError
from forecache.declare.sql.aggregates import AGGREGATES
from forecache.declare.sql.functions import RANKS, ROW_FUNCTIONS, SCALARS
from forecache.declare.sql.statement import compile_statement

AS_OF = date(2024, 2, 29)
COLUMNS = {
    "id": "bigint",
    "g": "int",
    "h": "string",
    "b": "boolean",
    "i": "int",
    "n": "bigint",
    "wide": "bigint",
    "x": "double",
    "y": "double",
    "odd": "double",
    "s": "string",
    "t": "string",
    "d": "date",
    "e": "date",
    "at": "timestamp",
    "till": "timestamp",
    "event_day": "date",
    "as_of": "date",
}
TABLES = {"r": COLUMNS, "q": COLUMNS}
KEYS = {"r": ("id",), "q": ("id",)}
_ARROW = {
    "bigint": pa.int64(),
    "int": pa.int32(),
    "string": pa.string(),
    "boolean": pa.bool_(),
    "double": pa.float64(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", "UTC"),
}
_TEXTS = [
    "",
    " ",
    "a",
    "A",
    "ab",
    "aB  ",
    "  Ab",
    "ß",
    "İi",
    "é",
    "e\u0301",
    "日本",
    "🤦🏼‍♂️",
    "x%_",
    "a'b",
    "a\\b",
    "\ta\n",
    "z" * 40,
]
_ODD = [
    0.0,
    -0.0,
    1.5,
    -1.5,
    2.5,
    0.5,
    -0.5,
    0.49999999999999994,
    0.285,
    1.005,
    -2.675,
    1e15 + 0.3,
    2.0**52 + 1,
    -(2.0**53) - 1,
    5e-324,
    1e300,
    -1e300,
    math.inf,
    -math.inf,
    math.nan,
    1 / 3,
    1e22,
    123456789.987654321,
]
_WIDE = [0, 1, -1, 7, -7, 2**31, -(2**31) - 1, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63) + 1, 10**15 + 3]


def make_rows(seed: int, rows: int) -> pa.Table:
    """Rows with nulls, ties, small and odd values; groups 7 and 8 have nulls alone."""
    draw = random.Random(seed)
    day = date(2024, 1, 31)
    moment = datetime(2024, 1, 31, tzinfo=timezone.utc)

    def one(name: str, number: int, group: int | None) -> Any:
        if name in ("id", "as_of", "g"):
            return {"id": number, "as_of": AS_OF, "g": group}[name]
        if draw.random() < 0.15 or group in (7, 8):
            return None
        kinds: dict[str, Any] = {
            "h": draw.choice("uvw"),
            "b": draw.random() < 0.5,
            "i": draw.randint(-5, 5),
            "n": draw.randint(-1000, 1000),
            "wide": draw.choice(_WIDE),
            "x": draw.choice([draw.uniform(-1e6, 1e6), draw.gauss(0, 1), 0.1, -0.0, 1e13, -3e12, math.nan, math.inf]),
            "y": draw.choice([0.0, -0.0, 1.0, 0.1, 1e-9, draw.uniform(-10, 10)]),
            "odd": draw.choice(_ODD),
            "s": draw.choice(_TEXTS),
            "t": draw.choice(_TEXTS),
            "at": moment + timedelta(microseconds=draw.choice([0, -1, 1, draw.randint(-(10**14), 10**14)])),
            "till": moment + timedelta(microseconds=draw.randint(-5 * 10**16, 10**16)),
        }
        return (
            kinds[name]
            if name in kinds
            else day + timedelta(days=draw.choice([0, 1, 28, 29, draw.randint(-40000, 9000)]))
        )

    groups = [draw.choice([None, 1, 2, 3, 7]) if number else 8 for number in range(rows)]
    arrays = [
        pa.array([one(name, number, group) for number, group in enumerate(groups)], _ARROW[kind])
        for name, kind in COLUMNS.items()
    ]
    return pa.table(arrays, names=list(COLUMNS))


def bits(value: Any) -> Any:
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else struct.pack("<d", value)
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    return value


def both(spark: Any, rows: dict[str, pa.Table], sql: str) -> tuple[list[Any], list[Any], Any]:
    """The rows of a statement by DuckDB and by Spark, sorted by all columns."""
    statement = compile_statement("test", sql, TABLES, KEYS)
    with duckdb.connect() as connection:
        for name, table in rows.items():
            connection.register(f"duck_{name}", table)
        here = connection.sql(
            statement.write_query("duckdb", {name: f"duck_{name}" for name in rows}, "2024-02-29")
        ).to_arrow_table()
    for name, table in rows.items():
        spark.createDataFrame(table).createOrReplaceTempView(f"spark_{name}")
    there = spark.sql(statement.write_query("spark", {name: f"spark_{name}" for name in rows}, "2024-02-29")).toArrow()
    assert here.column_names == there.column_names
    return (*(sorted_rows(table.to_pylist()) for table in (here, there)), statement)  # type: ignore[return-value]


def sorted_rows(rows: Iterable[dict[str, Any]]) -> list[Any]:
    return sorted(([(name, bits(value)) for name, value in row.items()] for row in rows), key=repr)


def compare(spark: Any, rows: dict[str, pa.Table], sql: str) -> list[Any]:
    here, there, _ = both(spark, rows, sql)
    assert len(here) == len(there)
    for one, other in zip(here, there, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            assert mine == theirs, f"{sql}\nDuckDB {one}\nSpark  {other}"
    return here


SCALAR_CASES = {
    "abs": ["abs(i)", "abs(wide)", "abs(odd)", "abs(cast(n as decimal(18,2)))"],
    "round": ["round(odd)", "round(x, 2)", "round(y, 1)", "round(i)", "round(cast(y as decimal(18,3)), 1)"],
    "floor": ["floor(odd)", "floor(wide)", "floor(x)"],
    "ceil": ["ceil(odd)", "ceiling(x)"],
    "trunc": ["trunc(odd)", "trunc(x)"],
    "sign": ["sign(odd)", "sign(wide)"],
    "sqrt": ["sqrt(odd)", "sqrt(n)"],
    "coalesce": ["coalesce(i, n, 3)", "coalesce(s, t)", "coalesce(odd, x, 0)", "coalesce(d, e)"],
    "greatest": ["greatest(odd, x)", "greatest(i, n)", "greatest(s, t)", "greatest(d, e)"],
    "least": ["least(odd, y, 0)", "least(wide, n)", "least(s, t)", "least(at, till)"],
    "nullif": ["nullif(i, 0)", "nullif(odd, 0)", "nullif(s, 'a')"],
    "lower": ["lower(s)"],
    "upper": ["upper(s)"],
    "length": ["length(s)"],
    "substring": ["substring(s, 2)", "substr(s, 1, 2)", "substring(s, 3, 0)"],
    "left": ["left(s, 2)", "left(s, 0)"],
    "right": ["right(s, 2)", "right(s, 0)"],
    "trim": ["trim(s)"],
    "ltrim": ["ltrim(s)"],
    "rtrim": ["rtrim(s)"],
    "replace": ["replace(s, 'a', t)", "replace(s, 'ab', '')"],
    "contains": ["contains(s, t)", "contains(s, '')"],
    "starts_with": ["starts_with(s, t)"],
    "ends_with": ["ends_with(s, t)"],
    "concat": ["concat(s, t, 'x')", "concat(s)"],
    "date_part": ["date_part('year', d)", "extract(month from at)", "date_part('doy', d)", "extract(dow from d)"],
    "year": ["year(d)", "year(till)"],
    "quarter": ["quarter(d)"],
    "month": ["month(at)"],
    "week": ["week(d)", "weekofyear(at)"],
    "day": ["day(d)"],
    "dayofyear": ["dayofyear(d)"],
    "dayofweek": ["dayofweek(d)"],
    "isodow": ["isodow(d)"],
    "hour": ["hour(at)", "hour(till)"],
    "minute": ["minute(at)"],
    "date_trunc": [
        *(f"date_trunc('{u}', d)" for u in ("year", "quarter", "month", "week", "day")),
        "date_trunc('week', at)",
        "date_trunc('day', till)",
    ],
    "date_diff": [
        *(f"date_diff('{u}', {a}, {b})" for u in ("year", "month", "day") for a, b in (("d", "e"), ("at", "till"))),
        *(f"date_diff('{u}', at, till)" for u in ("hour", "minute", "second")),
        "datediff('hour', d, at)",
    ],
    "epoch_us": ["epoch_us(at)", "epoch_us(till)"],
}
OPERATOR_CASES = [
    "i + n",
    "i - n",
    "n * i",
    "x + y",
    "x - y",
    "x * odd",
    "odd / y",
    "i / n",
    "wide / i",
    "odd / odd",
    "n // i",
    "n % i",
    "wide // 7",
    "wide % -7",
    "-i",
    "-odd",
    "-x + 1",
    "i + 0.5",
    "1.5",
    "1e-3",
    ".1 + .2",
    "3",
    "'a''b'",
    "'a\\b'",
    "'${spark.app.name} $1'",
    "true",
    "null + 1",
    "s || t",
    "s || 'x'",
    "i = n",
    "odd = y",
    "odd <> 0",
    "odd < x",
    "odd >= x",
    "s < t",
    "s = t",
    "d <= e",
    "at > d",
    "b = true",
    "wide = x",
    "wide > odd",
    "i in (1, 2, null)",
    "s in ('a', 'ß')",
    "odd in (0, 1.5)",
    "i between 0 and 3",
    "not b",
    "b and i > 0",
    "b or i > 0",
    "i is null",
    "s is not null",
    "b is true",
    "b is not false",
    "odd is distinct from y",
    "i is not distinct from n",
    "s like 'a%'",
    "s like '_b%'",
    "s not like '%b'",
    "case when i > 0 then s when i < 0 then t end",
    "case i when 1 then 0.5 else n end",
    "if(b, odd, y)",
    "cast(wide as double)",
    "cast(b as int)",
    "cast(i as varchar)",
    "cast(wide as varchar)",
    "cast(d as varchar)",
    "cast(b as varchar)",
    "cast(i as boolean)",
    "cast(at as date)",
    "cast(d as timestamp)",
    "cast(y * 10 as bigint)",
    "cast(if(abs(odd) < 1e15, odd, null) as bigint)",
    "cast(if(abs(odd) < 1e12, odd, null) as decimal(18,2))",
    "cast(if(abs(odd) < 1e12, odd, null) as decimal(18,6))",
    "cast(if(abs(odd) < 1e15, odd, null) as decimal(18,0))",
    "cast(n as decimal(18,2)) + 1",
    "cast(n as decimal(18,2)) / 3",
    "cast(cast(y as decimal(18,4)) as double)",
    "cast(y as decimal(18,2)) * cast(y as decimal(18,3))",
    "cast(y as decimal(18,2)) * n",
    "cast(y as decimal(18,2)) - cast(y as decimal(18,3))",
    "cast(y as decimal(18,3)) = y",
    "cast(cast(y as decimal(18,3)) as decimal(18,1))",
    "cast(cast(y as decimal(18,1)) as bigint)",
    "- cast(y as decimal(18,2))",
    "cast(y as decimal(18,2)) * 0.1",
    "date '2024-02-29'",
    "timestamp '2024-02-29 01:02:03.5'",
    "d + 3",
    "d - i",
    "d - e",
    "as_of - d",
    "d - interval 30 days",
    "d + interval 1 month",
    "d - interval 13 months",
    "d + interval 1 year",
    "d + interval 2 weeks",
    "at + interval 90 minutes",
    "at - interval 1 day",
    "at + interval 1 month",
    "till - interval 2 years",
    "at - interval '3' hour",
    "at + interval 5 seconds",
]
AGGREGATE_CASES = {
    "count": [
        "count(*)",
        "count(odd)",
        "count(distinct s)",
        "count(distinct i)",
        "count(distinct d)",
        "count(*) filter (where i > 0)",
        "count(distinct h) filter (where b)",
    ],
    "sum": [
        "sum(i)",
        "sum(n)",
        "sum(x)",
        "sum(y) filter (where b)",
        "sum(x * y) filter (where abs(x) < 1000000)",
        "sum(cast(y as decimal(18,2)))",
        "sum(if(b, 1, 0))",
        "sum(i) / count(*)",
    ],
    "avg": ["avg(i)", "avg(x)", "mean(y)", "avg(cast(y as decimal(18,3)))", "avg(x) filter (where i > 100)"],
    "min": ["min(odd)", "min(y)", "min(s)", "min(d)", "min(at)", "min(wide)", "min(-y)"],
    "max": ["max(odd)", "max(y)", "max(s)", "max(d)", "max(till)", "max(i)", "max(cast(y as decimal(18,2)))"],
    "arg_max": ["arg_max(odd, i)", "arg_max(s, d)", "max_by(n, at)", "arg_max(i, y) filter (where b)"],
    "arg_min": ["arg_min(y, i)", "min_by(s, odd)"],
    "bool_and": ["bool_and(b)"],
    "bool_or": ["bool_or(i > 3)"],
    "median": ["median(i)", "median(odd)", "median(y)", "median(x) filter (where b)"],
}
WINDOW_CASES = {
    "rank": ["rank() over (partition by h order by i desc, n)", "rank() over (order by odd)"],
    "dense_rank": ["dense_rank() over (partition by g order by y desc nulls first)"],
    "row_number": [
        "row_number() over (order by id)",
        "row_number() over (partition by h order by odd desc nulls first, s, id desc)",
        "row_number() over (partition by id order by h)",
    ],
    "lag": [
        "lag(odd) over (partition by h order by i desc, id)",
        "lag(d, 3) over (order by s nulls first, at, id)",
        "lag(i, 2, wide) over (partition by g order by y, id)",
        "lag(s, 1, 'none') over (partition by b, h order by id desc)",
        "lag(b) over (order by id)",
        "lag(cast(y as decimal(18,2)), 1, 7) over (order by id)",
        "d - lag(d) over (partition by h order by d, id)",
        "lag(y, 500) over (order by id)",
    ],
    "lead": [
        "lead(at) over (partition by h order by till, id)",
        "lead(n, 2, i) over (partition by g order by wide desc, id)",
        "lead(x + y, 1, 0) over (order by id)",
        "lead(n, 2147483647, 0) over (order by id)",
    ],
    "": [
        "sum(x) over (partition by h)",
        "sum(n) over (partition by g order by d)",
        "count(*) over (partition by h order by i)",
        "avg(y) over (partition by h order by d desc)",
        "max(odd) over (partition by g)",
        "arg_max(s, d) over (partition by h)",
        "min(d) filter (where b) over (partition by h)",
    ],
}


def test_every_function_that_is_allowed_has_a_case() -> None:
    assert SCALAR_CASES.keys() == SCALARS.keys()
    assert AGGREGATE_CASES.keys() == AGGREGATES.keys()
    assert WINDOW_CASES.keys() - {""} == {*RANKS, *ROW_FUNCTIONS}


@pytest.mark.parametrize("seed", [1, 2])
def test_expressions_are_equal_in_both_engines(spark: Any, seed: int) -> None:
    cases = [*OPERATOR_CASES, *(case for each in SCALAR_CASES.values() for case in each)]
    cases += [case for each in WINDOW_CASES.values() for case in each]
    selected = ", ".join(f"{case} as c{number}" for number, case in enumerate(cases))
    found = compare(spark, {"r": make_rows(seed, 400)}, f"select id, {selected} from r")
    assert len(found) == 400


@pytest.mark.parametrize("grouped", ["h", "g", "cast(h as varchar), i", ""])
def test_aggregates_are_equal_in_both_engines(spark: Any, grouped: str) -> None:
    cases = [case for each in AGGREGATE_CASES.values() for case in each]
    selected = ", ".join(f"{case} as c{number}" for number, case in enumerate(cases))
    keys = "".join(f"{key} as k{place}, " for place, key in enumerate(grouped.split(", ")) if key)
    for rows in (make_rows(3, 600), make_rows(3, 600).slice(0, 0)):
        compare(spark, {"r": rows}, f"select {keys}{selected} from r" + (f" group by {grouped}" if grouped else ""))


QUERY_CASES = [
    "select id, r.g, q.n, coalesce(r.s, q.s) as s from r left join q using (id) where r.i > 0 or q.i is null",
    "select g, count(*) as n, sum(q.x) as s from r full join q using (g, h) group by all",
    "select h, r.id as one, q.id as other from r right join q using (h, d)",
    "select r.id, q.id as other from r join q on r.g = q.g and r.d <= q.d and q.i = 3",
    "select id, g from r semi join q using (g, i)",
    "select id, g from r anti join q on r.g = q.g and r.s = q.s",
    "select r.id, q.id as other from r, q where r.wide = q.wide and r.h = q.h",
    "select r.id, q.id as other from r cross join q where r.id = q.id + 1",
    "select id, b.h from r join q as b using (id, h) semi join q as c using (h) join q as d using (id)",
    "select h, i from r union select h, n from q",
    "select h, x from r union all select h, i from q",
    "select h, i from r except select h, i from q",
    "select h, i from r intersect select h, i from q",
    "select distinct h, g, b from r",
    "select g, h, count(*) as n from r group by 1, h having count(*) > 5 and max(i) > 0",
    "select year(d) as of_year, i * 2 as double_i, sum(y) as total from r group by of_year, double_i",
    "select i + 1 as one, one * 2 as two, two - one as three, id from r",
    """select id, h, place
       from (select id, h, rank() over (partition by h order by i desc, id) as place from r) as t where place <= 3""",
    """with known as (select * from r where g is not null),
       sums as (select g, sum(n) as total from known group by g)
       select k.id, k.n / s.total as share, o.total as same
       from known k join sums s using (g) join sums o on o.g = k.g""",
    "with r as (select id, g from r where i > 0) select t.* from r as t",
    "select max(id) as id, count(*) as n from r where i > 100",
    "select q.*, r.id as other from r left join q on r.id = q.id and q.b",
    """select h, d, n, lag(d) over (partition by h order by d) as before, lead(n, 2, 0) over (order by d, h) as later
       from (select h, d, as_of, sum(n) as n from r group by h, d, as_of) as days""",
    """with days as (select h, year(d) as y, sum(x) as x from r group by all),
       known as (select d.y as of_year, d.h as of_h, x from days d semi join q using (h) where y > 1970)
       select of_h, of_year, x - lag(x) over (partition by of_h order by of_year desc) as change from known""",
    """select h, i, q.id, row_number() over (partition by h, i order by q.id) as place
       from (select distinct h, i from r) as r left join q using (h, i)""",
    """select h, i, n, lag(n) over (partition by h, i order by g) as before
       from (select h, i, as_of, count(*) as m from r group by all) as r
       right join (select h, i, g, as_of, count(*) as n from q group by all) as q using (h, i, as_of)""",
    "select h, i, row_number() over (order by h, i) as place from (select h, i from r union select h, n from q) as u",
    "select n, lead(n, 1, 5) over (order by n) as later from (select count(*) as n from r) as counted",
]
ROWS_THAT_MAY_TIE = [
    "r order by d",
    "(select id as h, as_of from r) as r order by as_of",
    "(select h, d, count(*) as n from r group by h, d) as r order by d",
    "(select h, d, n from (select h, d, count(*) as n from r group by h, d) as r) as r order by h, n",
    "(select d from (select h, d from r group by h, d) as r) as r order by d",
    "(select h, d from r union all select h, d from q) as r order by h, d",
    "(select id from r) as r left join (select id from q) as q on r.id < q.id order by r.id",
    "(select h from r group by h) as r full join (select h from q group by h) as q on r.h = q.h order by r.h, q.h",
    "(select q.as_of from r left join q on r.id = q.id and q.b group by q.as_of) as u order by 1 + 1",
    "(select coalesce(q.as_of) as night from r full join q using (id) group by night) as u order by 1 + 1",
]


@pytest.mark.parametrize("rest", ROWS_THAT_MAY_TIE)
def test_functions_of_single_rows_are_refused_if_rows_may_tie(rest: str) -> None:
    rows, _, order = rest.rpartition(" order by ")
    sql = f"select row_number() over (order by {order}) as place from {rows}"
    with pytest.raises(SettingsError, match=r"calls row_number\(\) over rows that may tie"):
        compile_statement("test", sql, TABLES, KEYS)


@pytest.mark.parametrize("seed", [1, 2])
def test_queries_are_equal_in_both_engines(spark: Any, seed: int) -> None:
    for sql in QUERY_CASES:
        compare(spark, {"r": make_rows(seed, 60), "q": make_rows(seed + 10, 80)}, sql)
