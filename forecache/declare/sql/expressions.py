"""Compiles the expressions of a statement; each kind of node that is not named here is refused."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from forecache.declare.sql.aggregates import AGGREGATES, ONE, count_different, count_rows, when
from forecache.declare.sql.functions import SCALARS, SYNONYMS, refused_function
from forecache.declare.sql.moments import date_part, read_interval, read_moment, shift
from forecache.declare.sql.values import (
    BIGINT,
    BOOLEAN,
    DATE,
    DOUBLE,
    MOST_SCALE,
    NULL,
    STRING,
    TIMESTAMP,
    RefusedSqlError,
    SqlType,
    Value,
    cast,
    convert,
    double_number,
    grouped,
    require,
    require_known,
    shorten,
    text_value,
    to_double,
    unite,
    whole_number,
    write,
)
from forecache.declare.sql.windows import compile_window

_COMPARISONS = {"EQ": "=", "NEQ": "<>", "LT": "<", "LTE": "<=", "GT": ">", "GTE": ">="}
_CAST_TYPES = {
    **dict.fromkeys(("TINYINT", "SMALLINT", "INT", "BIGINT"), BIGINT),
    "DOUBLE": DOUBLE,
    "BOOLEAN": BOOLEAN,
    **dict.fromkeys(("TEXT", "VARCHAR"), STRING),
    "DATE": DATE,
    **dict.fromkeys(("TIMESTAMP", "TIMESTAMPNTZ"), TIMESTAMP),
}


class Expressions:
    """Compiles expressions over named columns.

    Attributes:
        find_column: From the table (None: any) and the column to its value; None if there is none.
        row_key: Texts of columns by which no two rows are equal; None if none are known.
        aliases: Values by the names that the select list gave them so far, in lower case.
        groups: Texts of what the rows are grouped by; None outside the select list of a grouped query.
    """

    def __init__(
        self, find_column: Callable[[str | None, str, Any], Value | None], row_key: frozenset[str] | None = None
    ) -> None:
        self.find_column, self.row_key = find_column, row_key
        self.aliases: dict[str, Value] = {}
        self.groups: frozenset[str] = frozenset()

    def compile(self, node: Any) -> Value:
        """The value of a node; RefusedSqlError with the innermost node that is refused."""
        try:
            compute = getattr(self, f"_{type(node).__name__.lower()}", None)
            if type(node).__name__ in _COMPARISONS:
                value = self._compare(node)
            elif compute is None:
                raise RefusedSqlError(f"has {shorten(node)}, which is not allowed", "Write it with other functions.")
            else:
                value = compute(node)
        except RefusedSqlError as error:
            error.node = error.node or node
            raise
        return grouped(value) if value.duckdb in self.groups else value

    def compile_all(self, nodes: Any) -> list[Value]:
        return [self.compile(node) for node in nodes]

    def _two(self, node: Any, *more: str) -> tuple[Value, Value]:
        require_known(node, "this", "expression", *more)
        return self.compile(node.this), self.compile(node.expression)

    def compile_condition(self, node: Any) -> Value:
        return require(self.compile(node), "a condition", "boolean")

    def _column(self, node: Any) -> Value:
        require_known(node, "this", "table")
        if type(node.this).__name__ != "Identifier":
            raise RefusedSqlError("has *", "Name the columns.")
        table, name = node.text("table") or None, node.name
        value = self.find_column(table, name, node)
        if value is None and table is None:
            value = self.aliases.get(name.lower())
        if value is None:
            if name.lower() in _MOMENTS:
                raise refused_function(name.lower())
            raise RefusedSqlError(f"names the column {node.sql()!r}, which is not there", "", node)
        return value

    def _paren(self, node: Any) -> Value:
        return self.compile(node.this)

    def _literal(self, node: Any) -> Value:
        if node.is_string:
            return text_value(node.this)
        if re.fullmatch(r"\d+", node.this):
            if int(node.this) >= 2**63:
                raise RefusedSqlError(f"has the number {node.this}", "Whole numbers lie within 2**63.")
            return whole_number(int(node.this))
        return double_number(float(node.this))

    def _boolean(self, node: Any) -> Value:
        text = "TRUE" if node.this else "FALSE"
        return Value(BOOLEAN, text, text, constant=bool(node.this))

    def _null(self, node: Any) -> Value:
        return Value(NULL, "NULL", "NULL")

    def _alias(self, node: Any) -> Value:
        return self.compile(node.this)

    def _cast(self, node: Any) -> Value:
        require_known(node, "this", "to")
        kind = _declared_type(node.args["to"])
        value = self.compile(node.this)
        if value.type == STRING and isinstance(value.constant, str) and kind in (DATE, TIMESTAMP):
            return read_moment(value.constant, kind)
        return cast(value, kind)

    def _neg(self, node: Any) -> Value:
        value = require(self.compile(node.this), "-", "bigint", "double", "decimal")
        return write(value.type, [value], "(- {0})")

    def _not(self, node: Any) -> Value:
        return write(BOOLEAN, [self.compile_condition(node.this)], "(NOT {0})")

    def _and(self, node: Any) -> Value:
        require_known(node, "this", "expression")
        return write(
            BOOLEAN, [self.compile_condition(node.this), self.compile_condition(node.expression)], "({0} AND {1})"
        )

    def _or(self, node: Any) -> Value:
        require_known(node, "this", "expression")
        return write(
            BOOLEAN, [self.compile_condition(node.this), self.compile_condition(node.expression)], "({0} OR {1})"
        )

    def _compare(self, node: Any) -> Value:
        sign = _COMPARISONS[type(node).__name__]
        return write(BOOLEAN, unite(self._two(node), f"a comparison {sign}"), f"({{0}} {sign} {{1}})")

    def _nullsafeeq(self, node: Any) -> Value:
        return write(BOOLEAN, unite(self._two(node), "a comparison"), "({0} IS NOT DISTINCT FROM {1})", "({0} <=> {1})")

    def _nullsafeneq(self, node: Any) -> Value:
        return write(BOOLEAN, unite(self._two(node), "a comparison"), "({0} IS DISTINCT FROM {1})", "(NOT {0} <=> {1})")

    def _is(self, node: Any) -> Value:
        require_known(node, "this", "expression")
        value, known = self.compile(node.this), type(node.expression).__name__
        if known == "Null":
            return write(BOOLEAN, [value], "({0} IS NULL)")
        if known == "Boolean":
            word = "TRUE" if node.expression.this else "FALSE"
            return write(BOOLEAN, [require(value, "is", "boolean")], f"({{0}} IS {word})")
        raise RefusedSqlError(f"has {shorten(node)}", "Compare with `is null`, `is true` or `is false`.")

    def _between(self, node: Any) -> Value:
        require_known(node, "this", "low", "high")
        values = unite(self.compile_all([node.this, node.args["low"], node.args["high"]]), "between")
        return write(BOOLEAN, values, "({0} BETWEEN {1} AND {2})")

    def _in(self, node: Any) -> Value:
        if node.args.get("query") is not None:
            raise RefusedSqlError("has `in` with a query", "Use `semi join`, or for `not in` `anti join`.")
        require_known(node, "this", "expressions")
        values = unite(self.compile_all([node.this, *node.expressions]), "in")
        return write(BOOLEAN, values, f"({{0}} IN ({', '.join(f'{{{place}}}' for place in range(1, len(values)))}))")

    def _like(self, node: Any) -> Value:
        require_known(node, "this", "expression", "negate")
        pattern = self.compile(node.expression)
        if not isinstance(pattern.constant, str) or "\\" in pattern.constant:
            raise RefusedSqlError("has `like` with another pattern than a text", "Write it as a literal, without \\.")
        word = "NOT LIKE" if node.args.get("negate") else "LIKE"
        return write(BOOLEAN, [require(self.compile(node.this), "like", "string"), pattern], f"({{0}} {word} {{1}})")

    def _case(self, node: Any) -> Value:
        require_known(node, "this", "ifs", "default")
        conditions = []
        for each in node.args["ifs"]:
            if node.this is None:
                conditions.append(self.compile_condition(each.this))
            else:
                same = unite([self.compile(node.this), self.compile(each.this)], "case")
                conditions.append(write(BOOLEAN, same, "({0} = {1})"))
        return _write_case(
            conditions, self.compile_all(each.args["true"] for each in node.args["ifs"]), self._default(node)
        )

    def _default(self, node: Any, name: str = "default") -> Value:
        return Value(NULL, "NULL", "NULL") if node.args.get(name) is None else self.compile(node.args[name])

    def _if(self, node: Any) -> Value:
        require_known(node, "this", "true", "false")
        return _write_case(
            [self.compile_condition(node.this)], [self.compile(node.args["true"])], self._default(node, "false")
        )

    def _add(self, node: Any) -> Value:
        return self._add_or_subtract(node, "+")

    def _sub(self, node: Any) -> Value:
        return self._add_or_subtract(node, "-")

    def _add_or_subtract(self, node: Any, sign: str) -> Value:
        require_known(node, "this", "expression")
        if type(node.expression).__name__ == "Interval":
            return shift(self.compile(node.this), *read_interval(node.expression), sign)
        first, second = self.compile(node.this), self.compile(node.expression)
        if first.type == DATE and second.type == BIGINT:
            function = "date_add" if sign == "+" else "date_sub"
            return write(
                DATE,
                [first, second],
                f"({{0}} {sign} CAST({{1}} AS INTEGER))",
                f"{function}({{0}}, CAST({{1}} AS INT))",
            )
        if first.type == second.type == DATE and sign == "-":
            days = ("CAST(date_diff('day', {1}, {0}) AS BIGINT)", "CAST(datediff({0}, {1}) AS BIGINT)")
            return write(BIGINT, [first, second], *days)
        if TIMESTAMP in (first.type, second.type):
            raise RefusedSqlError(f"has {sign} of a timestamp", "Use date_diff('second', a, b), or an interval.")
        return self._calculate(first, second, sign)

    def _mul(self, node: Any) -> Value:
        return self._calculate(*self._two(node), "*")

    def _calculate(self, first: Value, second: Value, sign: str) -> Value:
        for value in (first, second):
            require(value, sign, "bigint", "double", "decimal")
        if sign != "*" or "decimal" not in (first.type.name, second.type.name):
            first, second = unite([first, second], sign)
        elif DOUBLE in (first.type, second.type):
            first, second = convert(first, DOUBLE), convert(second, DOUBLE)
        if first.type == NULL:
            first, second = convert(first, BIGINT), convert(second, BIGINT)
        if first.type.name != "decimal" and second.type.name != "decimal":
            return write(first.type, [first, second], f"({{0}} {sign} {{1}})")
        scale = first.type.scale + second.type.scale if sign == "*" else first.type.scale
        if scale > MOST_SCALE:
            rule = f"A product has at most {MOST_SCALE}: round() its factors to fewer."
            raise RefusedSqlError(f"has a product with {scale} digits after the point", rule)
        values = [convert(v, SqlType("decimal")) if v.type == BIGINT else v for v in (first, second)]
        kind = SqlType("decimal", scale)
        return write(kind, values, f"CAST(({{0}} {sign} {{1}}) AS {kind.sql})")

    def _div(self, node: Any) -> Value:
        values = [to_double(value, "/") for value in self._two(node, "typed", "safe")]
        return write(DOUBLE, values, "({0} / nullif({1}, CAST(0 AS DOUBLE)))")

    def _intdiv(self, node: Any) -> Value:
        values = [require(value, "//", "bigint") for value in self._two(node)]
        return write(BIGINT, values, "({0} // nullif({1}, 0))", "({0} div nullif({1}, 0L))")

    def _mod(self, node: Any) -> Value:
        values = [require(value, "%", "bigint") for value in self._two(node)]
        return write(BIGINT, values, "({0} % nullif({1}, 0))", "({0} % nullif({1}, 0L))")

    def _dpipe(self, node: Any) -> Value:
        return write(STRING, [require(value, "||", "string") for value in self._two(node, "safe")], "({0} || {1})")

    def _extract(self, node: Any) -> Value:
        require_known(node, "this", "expression")
        return date_part(node.this.name.lower(), self.compile(node.expression))

    def _anonymous(self, node: Any) -> Value:
        return self.compile_call(node, ("", ""), None)

    def _filter(self, node: Any) -> Value:
        require_known(node, "this", "expression")
        return self.compile_call(node.this, ("", ""), self.compile_condition(node.expression.this))

    def compile_call(self, node: Any, over: tuple[str, str], condition: Value | None) -> Value:
        if type(node).__name__ != "Anonymous":
            raise RefusedSqlError(f"has {shorten(node)}", "Call an aggregate.", node)
        require_known(node, "this", "expressions")
        name = SYNONYMS.get(str(node.this).lower(), str(node.this).lower())
        if name in SCALARS and condition is None and not over[0]:
            return SCALARS[name](name, self.compile_all(node.expressions))
        if name not in AGGREGATES:
            raise refused_function(name)
        return self._aggregate(name, node.expressions, over, condition)

    def _aggregate(self, name: str, nodes: Any, over: tuple[str, str], condition: Value | None) -> Value:
        kinds = [type(node).__name__ for node in nodes]
        groups, self.groups = self.groups, frozenset()
        try:
            if kinds == ["Star"] or (not kinds and name == "count"):
                values = [] if condition is None else [when(condition, ONE)]
                value = AGGREGATES[name](values, over) if values or name != "count" else count_rows(over)
            elif "Distinct" in kinds:
                inside = self.compile_all(nodes[0].expressions)
                if name != "count" or len(inside) != 1 or over[0] or len(nodes) != 1:
                    raise RefusedSqlError(f"has {name}() of distinct values", "Use count(distinct x) of one column.")
                values = inside if condition is None else [when(condition, inside[0])]
                value = count_different(values[0])
            else:
                values = self.compile_all(nodes)
                values = values if condition is None else [when(condition, each) for each in values]
                value = AGGREGATES[name](values, over)
        finally:
            self.groups = groups
        if any(each.has_aggregate or each.has_window for each in values):
            raise RefusedSqlError(f"has {name}() of an aggregate", "Compute the inner one in a subquery.")
        if over[0]:
            return replace(value, has_window=True)
        return replace(value, has_aggregate=True, columns=frozenset())

    def _window(self, node: Any) -> Value:
        return compile_window(self, node)


_MOMENTS = ("current_date", "current_timestamp", "localtimestamp", "current_time")


def _write_case(conditions: list[Value], values: list[Value], default: Value) -> Value:
    united = unite([*values, default], "case")
    whens = " ".join(f"WHEN {{{2 * place}}} THEN {{{2 * place + 1}}}" for place in range(len(conditions)))
    parts = [part for pair in zip(conditions, united, strict=False) for part in pair]
    return write(united[0].type, [*parts, united[-1]], f"(CASE {whens} ELSE {{{len(parts)}}} END)")


def _declared_type(node: Any) -> SqlType:
    name = node.this.name if hasattr(node.this, "name") else str(node.this)
    if name == "DECIMAL":
        numbers = [int(part.this.this) for part in node.expressions] or [18, 3]
        precision, scale = (*numbers, 0)[:2]
        if precision > 18 or scale > MOST_SCALE:
            rule = f"It has at most 18 digits, {MOST_SCALE} of them after the point."
            raise RefusedSqlError(f"has a cast to {node.sql()}", rule)
        return SqlType("decimal", scale)
    if name not in _CAST_TYPES:
        known = "bigint, double, decimal, boolean, varchar, date and timestamp"
        raise RefusedSqlError(f"has a cast to {node.sql()}", f"Types are {known}.")
    return _CAST_TYPES[name]
