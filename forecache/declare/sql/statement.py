"""SQL of a declaration, compiled: one SELECT over its sources, which have the rows of one as-of date."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar, Literal

from forecache.base.errors import SettingsError, UnavailableError
from forecache.base.table_names import AS_OF
from forecache.declare.sources.column import key_types
from forecache.declare.sources.source import AnySource
from forecache.declare.sql.queries import QueryCompiler
from forecache.declare.sql.relations import ENGINES, ROWS, Table, mark_table, qualify
from forecache.declare.sql.values import (
    BIGINT,
    DOUBLE,
    NULL,
    STRING,
    RefusedSqlError,
    SqlType,
    Value,
    cast,
    convert,
    known_number,
    write,
)

ENTITIES = "entities"
"""The table of a label's SQL with the key columns and `as_of` of the entities."""


@dataclass(frozen=True)
class Statement:
    """A compiled statement.

    Attributes:
        columns: Its columns, each an expression over its rows.
        texts: The query for DuckDB and for Spark, with marks for the tables that it reads.
        tables: The tables that it may read, and their columns.
    """

    columns: Mapping[str, Value]
    texts: tuple[str, str]
    tables: Mapping[str, Table]

    @property
    def canonical(self) -> str:
        """A text that is equal for statements that differ in blanks, comments or the case of words alone."""
        return self.texts[0]

    @property
    def reads_entities(self) -> bool:
        return mark_table(ENTITIES) in self.texts[0]

    def write_query(self, engine: Literal["duckdb", "spark"], names: Mapping[str, str], night: str) -> str:
        """The query of an as-of date, from tables of the given names."""
        place = 0 if engine == "duckdb" else 1
        text, quote = ENGINES[place]
        listed = [f"{text(value)} AS {quote(name)}" for name, value in self.columns.items()]
        query = (
            f"SELECT {', '.join(listed)}, DATE '{night}' AS {quote(AS_OF)} FROM ({self.texts[place]}) AS {quote(ROWS)}"
        )
        for table in self.tables:
            query = query.replace(mark_table(table), names.get(table, table))
        return query


def source_tables(sources: Iterable[AnySource]) -> dict[str, Table]:
    """The tables of sources: their declared columns, `event_day` and `as_of`."""
    more = {"event_day": "date", AS_OF: "date"}
    return {source.name: {**{column.name: str(column.type) for column in source.columns}, **more} for source in sources}


def state_keys(sources: Iterable[AnySource]) -> dict[str, Sequence[str]]:
    """The keys of sources of which a night has one state; of those of a horizon there may be several."""
    return {source.name: source.key for source in sources if source.time is not None and source.key}


def check_one_computation(owner: str, compute: Any, sql: str, *, needed: bool = True) -> None:
    """Refuse a declaration with a function and SQL, or if one is `needed`, with neither."""
    if (compute is not None and sql) or (needed and compute is None and not sql):
        which = "both `compute` and `sql`" if sql else "neither `compute` nor `sql`"
        raise SettingsError(f"{owner} has {which}.", remedy="Give one of the two.")


def compile_features(
    owner: str, sql: str, key: Sequence[str], features: Mapping[str, str], sources: Sequence[AnySource]
) -> Statement:
    """Compile SQL that has key columns, `as_of` and features, which are given by name with their type. The columns have
    the types of the table, but for numbers, which are not float32 yet, and texts that are to be embedded."""
    found = _compile_outputs(owner, sql, key, list(features), sources, source_tables(sources), state_keys(sources))
    outputs = {name: _feature_output(owner, name, kind, found.columns[name]) for name, kind in features.items()}
    columns = {**found.columns, **outputs}
    return replace(found, columns=columns)


def compile_label(
    owner: str,
    sql: str,
    key: Sequence[str],
    columns: Sequence[str],
    sources: Sequence[AnySource],
    all_sources: Sequence[AnySource],
    *,
    has_classes: bool,
) -> Statement:
    """Compile SQL that has key columns, `as_of`, the label (double, of classes string) and its weight (double); it may
    read the entities from the table `entities`."""
    tables = source_tables(sources)
    if ENTITIES in tables:
        raise SettingsError(f"{owner} has a source named {ENTITIES!r}, as SQL names the entities.", remedy="Rename it.")
    tables[ENTITIES] = {**key_types(key, all_sources), AS_OF: "date"}
    found = _compile_outputs(owner, sql, key, columns, all_sources, tables, {})
    outputs = dict(found.columns)
    for place, name in enumerate(columns):
        value = outputs[name]
        if place == 0 and has_classes:
            _require_type(owner, "class", name, value, ("string", "bigint"))
            outputs[name] = cast(value, STRING)
        else:
            _require_type(owner, "label", name, value, _NUMERIC)
            outputs[name] = known_number(convert(_number(value), DOUBLE))
    return replace(found, columns=outputs)


def compile_entities(
    owner: str,
    sql: str,
    key: Sequence[str],
    columns: Sequence[str],
    sources: Sequence[AnySource],
    all_sources: Sequence[AnySource],
) -> Statement:
    """Compile SQL that has key columns, `as_of` and further columns."""
    return _compile_outputs(owner, sql, key, columns, all_sources, source_tables(sources), state_keys(sources))


def _compile_outputs(
    owner: str,
    sql: str,
    key: Sequence[str],
    names: Sequence[str],
    all_sources: Sequence[AnySource],
    tables: Mapping[str, Table],
    keys: Mapping[str, Sequence[str]],
) -> Statement:
    """Compile SQL that has key columns in their declared types, `as_of`, and columns of the given names."""
    statement = compile_statement(owner, sql, tables, keys)
    known = {name.lower(): value for name, value in statement.columns.items()}
    for name in [*key, AS_OF, *names]:
        if name.lower() not in known:
            listed = ", ".join(statement.columns)
            raise SettingsError(f"{owner} has SQL without the column {name!r}.", remedy=f"It has {listed}: select it.")
    if not known[AS_OF].is_as_of:
        raise SettingsError(f"{owner} has SQL with another `as_of` than that of a table.", remedy="Select that one.")
    outputs = {}
    for name, kind in key_types(key, all_sources).items():
        value, wanted = known[name.lower()], SqlType("bigint" if kind == "int" else kind)
        if value.type not in (wanted, NULL):
            raise SettingsError(
                f"{owner} has SQL with the key column {name!r} as a {value.type}.", remedy=f"Its source has a {kind}."
            )
        value = convert(value, wanted)
        outputs[name] = (
            write(value.type, [value], "CAST({0} AS INTEGER)", "CAST({0} AS INT)") if kind == "int" else value
        )
    outputs |= {name: known[name.lower()] for name in names}
    return replace(statement, columns=outputs)


_NUMERIC = ("bigint", "double", "decimal", "boolean")
_TAKEN: Mapping[str, tuple[str, ...]] = {
    "number": _NUMERIC,
    "integer": ("bigint", "boolean"),
    "category": ("string", "bigint", "date", "boolean"),
    "text": ("string",),
    "vector": (),
}


def _feature_output(owner: str, name: str, kind: str, value: Value) -> Value:
    _require_type(owner, kind, name, value, _TAKEN[kind])
    if kind == "category":
        return write(STRING, [cast(value, STRING)], "nullif({0}, '')")
    if kind == "text":
        return convert(value, STRING)
    value = known_number(convert(_number(value), BIGINT) if value.type == NULL else _number(value))
    return convert(value, DOUBLE) if value.type.name == "decimal" else value


def _number(value: Value) -> Value:
    return cast(value, BIGINT) if value.type.name == "boolean" else value


def _require_type(owner: str, what: str, name: str, value: Value, kinds: Sequence[str]) -> None:
    if value.type != NULL and value.type.name not in kinds:
        rule = f"It is {' or '.join(kinds)}: cast it." if kinds else "Give the features a function."
        raise SettingsError(f"{owner} has SQL with the {what} {name!r} as a {value.type}.", remedy=rule)


def compile_statement(
    owner: str, sql: str, tables: Mapping[str, Table], keys: Mapping[str, Sequence[str]]
) -> Statement:
    """Compile the SQL of `owner` over tables, whose rows are unique by the columns in `keys`.

    Raises:
        SettingsError: The statement is wrong, names what is not there, or has what both engines do not compute to
            equal bits; the message has the place.
    """
    known = tuple((name, tuple(columns.items())) for name, columns in tables.items())
    try:
        return _compile(sql, known, tuple((name, tuple(key)) for name, key in keys.items()))
    except RefusedSqlError as error:
        place = _find_place(sql, error.node)
        raise SettingsError(f"{owner} has SQL that {error.what}{place}.", remedy=error.remedy) from None


@cache
def _compile(
    sql: str,
    tables: tuple[tuple[str, tuple[tuple[str, str], ...]], ...],
    keys: tuple[tuple[str, tuple[str, ...]], ...],
) -> Statement:
    compiler = QueryCompiler({name: dict(columns) for name, columns in tables}, dict(keys))
    relation = compiler.compile(_parse(sql))
    texts = [relation.duckdb, relation.spark]
    for place in (0, 1):
        if compiler.named:
            named = ", ".join(f"{ENGINES[place][1](name)} AS ({each[place]})" for name, each in compiler.named)
            texts[place] = f"WITH {named} {texts[place]}"
    return Statement(qualify(relation.columns, ROWS), (texts[0], texts[1]), compiler.tables)


def _parse(sql: str) -> Any:
    try:
        import sqlglot
    except ImportError:
        raise UnavailableError(
            "SQL of declarations needs sqlglot, which is missing.", remedy="Install forecache[lake]."
        ) from None
    try:
        found = [each for each in sqlglot.parse(sql, read=_plain_dialect()) if each is not None]
    except sqlglot.errors.SqlglotError as error:
        known = (getattr(error, "errors", None) or [{}])[0]
        what = str(known.get("description") or error).splitlines()[0].partition("<class")[0].strip(" .")
        place = f" at line {known['line']}, column {known['col']}" if known.get("line") else ""
        near = f", near {known['highlight']!r}" if known.get("highlight") else ""
        raise RefusedSqlError(f"cannot be read{place}{near}: {what}", "Correct the statement.") from None
    if len(found) != 1:
        raise RefusedSqlError(f"is {len(found)} statements", "Write one SELECT.")
    return found[0]


@cache
def _plain_dialect() -> Any:
    """DuckDB's dialect without a function of its own: all calls are nodes of one kind, with the name as written."""
    from sqlglot.dialects.duckdb import DuckDB
    from sqlglot.parsers.duckdb import DuckDBParser

    kept = ("CAST", "TRY_CAST", "EXTRACT")

    class PlainParser(DuckDBParser):  # type: ignore[misc, unused-ignore]
        FUNCTIONS: ClassVar[dict[str, Any]] = {}
        FUNCTION_PARSERS = {name: each for name, each in DuckDBParser.FUNCTION_PARSERS.items() if name in kept}
        NO_PAREN_FUNCTIONS: ClassVar[dict[Any, Any]] = {}

    class PlainDuckDB(DuckDB):  # type: ignore[misc, unused-ignore]
        Parser = PlainParser

    return PlainDuckDB


def _find_place(sql: str, node: Any) -> str:
    """The line and column of a node, from the first of its names and numbers that has one; "" if none has."""
    starts = [each.meta["start"] for each in node.walk() if "start" in each.meta] if hasattr(node, "walk") else []
    if not starts:
        return ""
    before = sql[: min(starts)]
    return f" (line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))})"
