"""Expectations of the common types, checked by DuckDB with the outcome that Great Expectations has on Spark.

It takes milliseconds, no JVM and no import of Great Expectations. A test compares both for each type.
"""

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from forecache.base.files import process_folder
from forecache.base.settings import Settings
from forecache.declare import Expectation
from forecache.kit.delta.dataset import open_dataset, read_few_ahead
from forecache.kit.delta.tables import open_table
from forecache.lake.quality.validate import CheckReport, CheckResult, make_result

if TYPE_CHECKING:
    import duckdb
    from pyarrow.dataset import FileSystemDataset

_MEMORY = "1GB"
_NUMBERS = ("byte", "short", "integer", "long", "float", "double")
_FLOATS = ("float", "double")
_EXACT = 2**53
_Types = dict[str, str]


@dataclass(frozen=True)
class _Rule:
    """A type of expectation: the arguments that it takes here, and what the columns and arguments have to be."""

    arguments: frozenset[str]
    fits: Callable[[Expectation, _Types], bool] = lambda expectation, types: True


def _is_range(expectation: Expectation, types: _Types) -> bool:
    limits = [expectation.arguments.get(name) for name in ("min_value", "max_value")]
    given = [limit for limit in limits if limit is not None]
    plain = all(type(limit) in (int, float) and abs(limit) <= _EXACT for limit in given)
    return bool(given) and plain and all(types[column] in _NUMBERS for column in expectation.columns)


def _is_set_of_texts(expectation: Expectation, types: _Types) -> bool:
    texts = all(isinstance(value, str) for value in expectation.arguments["value_set"])
    return texts and types[expectation.columns[0]] == "string"


_RULES = {
    "expect_table_row_count_to_be_between": _Rule(frozenset({"min_value", "max_value"}), _is_range),
    "expect_column_values_to_not_be_null": _Rule(frozenset({"column"})),
    "expect_column_values_to_be_unique": _Rule(frozenset({"column"})),
    "expect_compound_columns_to_be_unique": _Rule(frozenset({"column_list"})),
    "expect_column_values_to_be_between": _Rule(frozenset({"column", "min_value", "max_value"}), _is_range),
    "expect_column_values_to_be_in_set": _Rule(frozenset({"column", "value_set"}), _is_set_of_texts),
}


class PlainValidation:
    """Checks days of a table, as of its newest version, against expectations."""

    def __init__(self, settings: Settings, table: str, expectations: Sequence[Expectation], *, column: str) -> None:
        self._settings, self._table, self._expectations, self._column = settings, table, expectations, column

    @property
    def is_possible(self) -> bool:
        """Whether all expectations are of the common types, with plain arguments and columns that are there."""
        types = self._types()
        return all(_is_plain(expectation, types) for expectation in self._expectations)

    def _types(self) -> _Types:
        fields = open_table(self._settings, self._table).schema().fields
        return {field.name: str(getattr(field.type, "type", "")) for field in fields}

    def validate(self, days: Sequence[date], *, name: str) -> CheckReport:
        """Check the rows of days, in which NaN counts as null."""
        import duckdb

        started, types = time.perf_counter(), self._types()
        scratch = self._settings.home_path / "ingest"
        scratch.mkdir(parents=True, exist_ok=True)
        partitions = [(self._column, "in", sorted(day.isoformat() for day in days))]
        with (
            process_folder(scratch, "check-") as folder,
            closing(
                duckdb.connect(":memory:", config={"temp_directory": str(folder), "memory_limit": _MEMORY})
            ) as connection,
        ):
            dataset = open_dataset(open_table(self._settings, self._table), partitions=partitions)
            counts = _count_breaches(_Rows(connection, dataset, types), self._expectations)
        rows = counts.pop()
        results = tuple(
            _make_result(expectation, count, rows)
            for expectation, count in zip(self._expectations, counts, strict=True)
        )
        return CheckReport(name, results, rows, time.perf_counter() - started)


def _is_plain(expectation: Expectation, types: _Types) -> bool:
    rule = _RULES.get(expectation.type)
    if rule is None or not expectation.arguments.keys() <= rule.arguments:
        return False
    return all(types.get(column) for column in expectation.columns) and rule.fits(expectation, types)


@dataclass(frozen=True)
class _Rows:
    """The rows that are checked, read anew for each query, a few batches ahead."""

    connection: "duckdb.DuckDBPyConnection"
    dataset: "FileSystemDataset"
    types: _Types

    def query(self, sql: str, columns: Collection[str], parameters: Sequence[Any] = ()) -> tuple[Any, ...]:
        """The one row that a query of columns of the view `checked` returns."""
        self.connection.register("stored", read_few_ahead(self.dataset, list(columns)))
        values = ", ".join(_select_value(column, self.types[column]) for column in columns)
        self.connection.execute(f"CREATE OR REPLACE TEMP VIEW checked AS SELECT {values} FROM stored")
        (found,) = self.connection.execute(sql, parameters).fetchall()
        return tuple(found)


def _select_value(column: str, kind: str) -> str:
    name = _quote(column)
    return f"CASE WHEN isnan({name}) THEN NULL ELSE {name} END AS {name}" if kind in _FLOATS else name


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _count_breaches(rows: _Rows, expectations: Sequence[Expectation]) -> list[int]:
    """Count the rows that break each expectation, and at last all rows."""
    counts, parameters = [0] * len(expectations), list[Any]()
    single = {
        place: f"count(*) FILTER (WHERE {_breach(expectation, parameters)})"
        for place, expectation in enumerate(expectations)
        if expectation.columns and not expectation.type.endswith("_unique")
    }
    columns = {column: None for place in single for column in expectations[place].columns}
    if single:
        found = rows.query(f"SELECT {', '.join(single.values())} FROM checked", columns, parameters)
        for place, count in zip(single, found, strict=True):
            counts[place] = count
    num_rows = rows.dataset.count_rows()
    for place, expectation in enumerate(expectations):
        if expectation.type.endswith("_unique"):
            keys = dict.fromkeys(expectation.columns)
            sql = f"SELECT count(*) FROM (SELECT 1 FROM checked GROUP BY {', '.join(map(_quote, keys))})"
            counts[place] = num_rows - rows.query(sql, keys)[0]
    return [*counts, num_rows]


def _breach(expectation: Expectation, parameters: list[Any]) -> str:
    """The condition under which a row breaks an expectation by itself."""
    arguments = expectation.arguments
    if expectation.type == "expect_column_values_to_not_be_null":
        return f"{_quote(arguments['column'])} IS NULL"
    if expectation.type == "expect_column_values_to_be_between":
        limits = [("<", arguments.get("min_value")), (">", arguments.get("max_value"))]
        given = [(sign, limit) for sign, limit in limits if limit is not None]
        parameters += [limit for _, limit in given]
        column = _quote(arguments["column"])
        kinds = ["BIGINT" if isinstance(limit, int) else "DOUBLE" for _, limit in given]
        return " OR ".join(f"{column} {sign} ?::{kind}" for (sign, _), kind in zip(given, kinds, strict=True))
    assert expectation.type == "expect_column_values_to_be_in_set", expectation.type
    parameters.append(list(arguments["value_set"]))
    return f"NOT list_contains(?::VARCHAR[], {_quote(arguments['column'])})"


def _make_result(expectation: Expectation, count: int, rows: int) -> CheckResult:
    if expectation.type != "expect_table_row_count_to_be_between":
        return make_result(expectation, count == 0, None, count, rows)
    low, high = (expectation.arguments.get(name) for name in ("min_value", "max_value"))
    return make_result(expectation, (low is None or rows >= low) and (high is None or rows <= high), rows, None, rows)
