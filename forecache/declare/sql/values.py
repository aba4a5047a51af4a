"""Typed SQL expressions, each as text for DuckDB and for Spark that gives equal bits in both."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any


class RefusedSqlError(Exception):
    """A part of a statement that is refused; `node` is its place in the parse tree."""

    def __init__(self, what: str, remedy: str, node: Any = None) -> None:
        super().__init__(what)
        self.what, self.remedy, self.node = what, remedy, node


@dataclass(frozen=True)
class SqlType:
    """A type of an expression. There is one type of whole numbers, bigint; a decimal has 38 digits, `scale` of them
    after the point."""

    name: str
    scale: int = 0

    def __str__(self) -> str:
        return f"decimal with {self.scale} digits after the point" if self.name == "decimal" else self.name

    @property
    def sql(self) -> str:
        """Its name in both engines."""
        return f"DECIMAL(38,{self.scale})" if self.name == "decimal" else self.name.upper()


BOOLEAN, BIGINT, DOUBLE, STRING = SqlType("boolean"), SqlType("bigint"), SqlType("double"), SqlType("string")
DATE, TIMESTAMP, NULL = SqlType("date"), SqlType("timestamp"), SqlType("null")
NUMBERS = ("bigint", "decimal", "double")
MOST_SCALE = 6
"""Most digits of a decimal after the point: above it, Spark rounds products, and DuckDB does not."""


@dataclass(frozen=True)
class Value:
    """An expression.

    Attributes:
        columns: Columns that it reads outside aggregates, as DuckDB's text; empty for what is grouped by.
        is_as_of: It is the `as_of` of a source, unchanged.
        has_one_value: It is `as_of`, and null in no row, so that it has one value in all rows.
        has_aggregate: It has an aggregate that is not over a window.
        has_window: It has a function over a window.
        constant: The value of a literal; None for others.
    """

    type: SqlType
    duckdb: str
    spark: str
    columns: frozenset[str] = frozenset()
    is_as_of: bool = False
    has_one_value: bool = False
    has_aggregate: bool = False
    has_window: bool = False
    constant: int | float | str | bool | None = None


def write(
    kind: SqlType, values: Sequence[Value], duckdb: str, spark: str = "", *, over: tuple[str, str] = ("", "")
) -> Value:
    """An expression over others, from templates with `{0}`, `{1}` and so on; `{w}` is the window of an aggregate.

    `spark` is the template of both if it is "".
    """
    return Value(
        kind,
        duckdb.format(*(value.duckdb for value in values), w=over[0]),
        (spark or duckdb).format(*(value.spark for value in values), w=over[1]),
        frozenset[str]().union(*(value.columns for value in values)),
        has_aggregate=any(value.has_aggregate for value in values),
        has_window=any(value.has_window for value in values),
    )


def whole_number(number: int) -> Value:
    return Value(BIGINT, f"CAST({number} AS BIGINT)", f"CAST({number} AS BIGINT)", constant=number)


def double_number(number: float) -> Value:
    text = f"CAST('{number!r}' AS DOUBLE)"
    return Value(DOUBLE, text, text, constant=number)


def text_value(text: str) -> Value:
    if any(ord(character) < 32 and character not in "\t\n" for character in text):
        raise RefusedSqlError("has a text with a control character", "Leave it out.")
    quoted = text.replace("'", "''")
    # Spark would replace ${name} in the text of a query by the value of a setting.
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("$", "\\u0024")
    return Value(STRING, f"'{quoted}'", f"'{escaped}'", constant=text)


def convert(value: Value, kind: SqlType) -> Value:
    """Convert to a type that holds each value: null to any, bigint to decimal and double, date to timestamp."""
    if value.type == kind:
        return value
    if value.type == NULL:
        return write(kind, [value], f"CAST({{0}} AS {_cast_name(kind)})", f"CAST({{0}} AS {kind.sql})")
    if value.type.name == "decimal" and kind == DOUBLE:
        return _decimal_to_double(value)
    return write(kind, [value], f"CAST({{0}} AS {kind.sql})")


def _cast_name(kind: SqlType) -> str:
    return "VARCHAR" if kind == STRING else kind.sql


def _decimal_to_double(value: Value) -> Value:
    # Both engines have a conversion of their own; of the whole number of its last digits there is one.
    scale = value.type.scale
    if not scale:
        return write(DOUBLE, [value], "CAST(CAST({0} AS BIGINT) AS DOUBLE)")
    digits = f"CAST(CAST({{0}} * CAST({10**scale} AS DECIMAL({scale + 1},0)) AS BIGINT) AS DOUBLE)"
    return write(DOUBLE, [value], f"({digits} / CAST({10**scale} AS DOUBLE))")


def unite(values: Sequence[Value], what: str) -> list[Value]:
    """Convert values to one type; `what` compares or combines them, for the message."""
    kinds = {value.type for value in values} - {NULL}
    kind = _common_type(kinds)
    if kind is None:
        names = " and a ".join(sorted(str(kind) for kind in kinds))
        raise RefusedSqlError(f"has {what} of a {names}", "Cast one of them: types are not converted by themselves.")
    return [convert(value, kind) for value in values]


def _common_type(kinds: set[SqlType]) -> SqlType | None:
    names = {kind.name for kind in kinds}
    if not kinds:
        return NULL
    if len(kinds) == 1:
        return next(iter(kinds))
    if names <= {*NUMBERS}:
        return DOUBLE if "double" in names else SqlType("decimal", max(kind.scale for kind in kinds))
    return TIMESTAMP if names == {"date", "timestamp"} else None


def require(value: Value, what: str, *names: str) -> Value:
    """Refuse a value whose type is not among `names`; null becomes the first of them."""
    if value.type == NULL:
        return convert(value, SqlType(names[0]))
    if value.type.name not in names:
        wanted = f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]
        raise RefusedSqlError(f"has {what} of a {value.type}", f"It takes a {wanted}: cast it.")
    return value


def to_double(value: Value, what: str) -> Value:
    return convert(require(value, what, "double", "bigint", "decimal"), DOUBLE)


def unsigned_zero(value: Value) -> Value:
    """The value, of a double with 0.0 in place of -0.0: which one an aggregate finds first depends on the order."""
    return write(DOUBLE, [value], "({0} + CAST(0 AS DOUBLE))") if value.type == DOUBLE else value


def known_number(value: Value) -> Value:
    """The value, of a double with null in place of NaN, and 0.0 in place of -0.0."""
    if value.type != DOUBLE:
        return value
    return write(DOUBLE, [value], "CASE WHEN isnan({0}) THEN NULL ELSE {0} + CAST(0 AS DOUBLE) END")


def require_comparable(value: Value, what: str) -> Value:
    """Refuse a double where equal values are put together."""
    if value.type == DOUBLE:
        raise RefusedSqlError(f"has {what} of a double", "Cast it: cast(... as decimal(18,2)), or as bigint.")
    return value


def cast(value: Value, kind: SqlType) -> Value:
    """The cast that a statement asks for; refused if both engines have other rules for it."""
    have, want = value.type.name, kind.name
    if value.type == kind and have != "decimal":
        return value
    if have == "null":
        return convert(value, kind)
    if (have, want) in _PLAIN_CASTS:
        return write(kind, [value], f"CAST({{0}} AS {_cast_name(kind)})", f"CAST({{0}} AS {kind.sql})")
    if (have, want) == ("boolean", "double"):
        return convert(cast(value, BIGINT), DOUBLE)
    if (have, want) == ("decimal", "double"):
        return convert(value, DOUBLE)
    if (have, want) == ("double", "bigint"):
        # To the nearest even number, as DuckDB does; Spark would cut.
        return write(BIGINT, [value], "CAST({0} AS BIGINT)", "CAST(rint({0}) AS BIGINT)")
    if (have, want) == ("double", "decimal"):
        return _double_to_decimal(value, kind)
    if (have, want) == ("decimal", "decimal"):
        return write(kind, [value], f"CAST(round({{0}}, {kind.scale}) AS {kind.sql})")
    if (have, want) == ("decimal", "bigint"):
        return write(BIGINT, [value], "CAST(round({0}, 0) AS BIGINT)")
    remedy = "Declare the type in the source's column." if have == "string" else "Leave it out."
    raise RefusedSqlError(f"has a cast of a {value.type} to a {kind}", remedy)


def _double_to_decimal(value: Value, kind: SqlType) -> Value:
    scaled = "CAST({0} AS BIGINT)", "CAST(rint({0}) AS BIGINT)"
    if not kind.scale:
        return write(kind, [write(BIGINT, [value], *scaled)], f"CAST({{0}} AS {kind.sql})")
    digits = write(BIGINT, [write(DOUBLE, [value], f"({{0}} * CAST({10**kind.scale} AS DOUBLE))")], *scaled)
    step = f"CAST('0.{'0' * (kind.scale - 1)}1' AS DECIMAL({kind.scale + 1},{kind.scale}))"
    return write(kind, [digits], f"CAST(CAST({{0}} AS DECIMAL(19,0)) * {step} AS {kind.sql})")


_PLAIN_CASTS = {
    ("boolean", "bigint"),
    ("boolean", "string"),
    ("bigint", "boolean"),
    ("bigint", "decimal"),
    ("bigint", "double"),
    ("bigint", "string"),
    ("date", "string"),
    ("date", "timestamp"),
    ("timestamp", "date"),
}


def grouped(value: Value) -> Value:
    """The value as one that is grouped by: it may stand beside aggregates."""
    return replace(value, columns=frozenset())


Arguments = Sequence[Value]


def take(name: str, values: Arguments, least: int, most: int) -> None:
    if not least <= len(values) <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise RefusedSqlError(f"calls {name}() with {len(values)} arguments", f"It takes {wanted}.")


def take_constant(name: str, value: Value, kind: type, least: int = 0) -> int | str:
    """The constant of an argument; refused if it is no literal, or a number below `least`."""
    fits = type(value.constant) is kind and (not isinstance(value.constant, int) or value.constant >= least)
    if not fits or value.constant == "":
        what = "a text that is not empty" if kind is str else f"a whole number from {least}"
        raise RefusedSqlError(f"calls {name}() with an argument that is not {what}", "Write it as a literal.")
    assert isinstance(value.constant, (int, str))
    return value.constant


def shorten(node: Any) -> str:
    text = str(node.sql(dialect="duckdb", comments=False)) if hasattr(node, "sql") else str(node)
    return f"`{text if len(text) <= 60 else text[:57] + '...'}`"


def require_known(node: Any, *names: str) -> None:
    """Refuse a node that has other parts than those named, such as a sample of a table."""
    for name, part in node.args.items():
        if name not in names and part not in (None, False, []):
            what = name.strip("_").replace("_", " ").upper()
            remedy = _PART_REMEDIES.get(name, "Leave it out.")
            raise RefusedSqlError(f"has {what}", remedy, part if hasattr(part, "args") else node)


_ORDER_REMEDY = "The rows of a table have no order: choose rows by `where`, or with rank() in a subquery."
_PART_REMEDIES = {
    "limit": _ORDER_REMEDY,
    "order": _ORDER_REMEDY,
    "offset": _ORDER_REMEDY,
    "qualify": "Give the function over a window a name in a subquery, and use `where`.",
    "spec": "A window with `order by` goes up to the present row and all that are equal to it.",
}
