"""Check the SQL expressions of a `SqlModel` when the declaration loads: each reads the features of one row only."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from forecache.base.errors import SettingsError

_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL", "BOOLEAN")
_UNSIGNED = ("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT")
_CLAUSES = {
    "over": "looks at other rows",
    "select": "has a query of its own",
    "current_date": "differs from run to run",
    "current_time": "differs from run to run",
    "current_timestamp": "differs from run to run",
    "localtime": "differs from run to run",
    "localtimestamp": "differs from run to run",
}
_MOMENTS = (
    "age",
    "now",
    "today",
    "transaction_timestamp",
    "get_current_time",
    "get_current_timestamp",
    "current_localtime",
    "current_localtimestamp",
)


def connect() -> Any:
    """A DuckDB database in memory, with one thread and without files or a network."""
    import duckdb

    connection = duckdb.connect(":memory:", config={"threads": 1, "enable_external_access": False})
    connection.execute("SET lock_configuration = true")
    return connection


def build_query(expressions: Sequence[str]) -> str:
    """The query of the expressions over the table `features`; numbers as double."""
    # A comment at the end of an expression ends with its line.
    columns = ", ".join(f"CAST((\n{text}\n) AS DOUBLE) AS output_{i}" for i, text in enumerate(expressions))
    return f"SELECT {columns} FROM features"


def check_expression(owner: str, expression: str, features: Sequence[str]) -> None:
    """Refuse a text that is no expression over one row of the features, or whose value is no number."""
    import duckdb

    word = _refusal_reason(expression, features)
    if word:
        raise SettingsError(
            f"{owner} has the expression {_shorten(expression)}, which {word}.",
            remedy="Compute a row's output from the features of that row alone.",
        )
    columns = ", ".join(f'NULL::FLOAT AS "{name}"' for name in features)
    with connect() as connection:
        connection.execute(
            f"CREATE TEMP VIEW features AS SELECT {columns}"
        )  # a view, so that there is no rowid: a batch has none either
        try:
            alone = len(connection.extract_statements(build_query([expression]))) == 1
            kinds = connection.sql(f"SELECT (\n{expression}\n) FROM features").types if alone else []
        except duckdb.Error as error:
            said = str(error).splitlines()[0].rstrip(".!")
            raise SettingsError(
                f"{owner} has the expression {_shorten(expression)}, which is wrong: {said}.",
                remedy=f"Its features are {', '.join(features)}.",
            ) from None
    if len(kinds) != 1:
        raise SettingsError(f"{owner} has the expression {_shorten(expression)}.", remedy="Give one expression.")
    kind = str(kinds[0])
    if kind.partition("(")[0] not in (*_NUMBERS, *_UNSIGNED):
        raise SettingsError(
            f"{owner} has the expression {_shorten(expression)}, which gives {kind}.", remedy="Give a number."
        )


def _refusal_reason(expression: str, features: Sequence[str]) -> str:
    """The reason why a word of an expression is not allowed; "" if all are."""
    import duckdb

    found = duckdb.tokenize(expression)
    ends = [start for start, _ in found[1:]] + [len(expression)]
    words = [(expression[start:end].strip().lower(), kind) for (start, kind), end in zip(found, ends, strict=True)]
    for place, (word, kind) in enumerate(words):
        if kind in (duckdb.token_type.string_const, duckdb.token_type.comment):
            continue
        called = place + 1 < len(words) and words[place + 1][0].startswith("(")
        if word == "from" and place and words[place - 1][0].endswith("("):
            return "has a query of its own"
        if word in _CLAUSES and word not in features:
            return f"says {word.upper()} and so {_CLAUSES[word]}"
        if called and (why := _refused_functions().get(word.strip('"'))):
            return f"calls {word}() and so {why}"
    return ""


@cache
def _refused_functions() -> dict[str, str]:
    """Functions that an expression may not call, each with the reason."""
    with connect() as connection:
        rows = connection.execute(
            "SELECT DISTINCT lower(function_name), function_type FROM duckdb_functions() "
            "WHERE function_type = 'aggregate' OR stability = 'VOLATILE'"
        ).fetchall()
    why = {"aggregate": "looks at other rows", "scalar": "differs from run to run"}
    moments = dict.fromkeys(_MOMENTS, "differs from run to run")
    return {**{name: why[kind] for name, kind in rows}, **moments, "unnest": "gives several rows"}


def _shorten(expression: str) -> str:
    text = " ".join(expression.split())
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
