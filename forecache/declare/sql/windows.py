"""Functions over windows: aggregates, ranks, and those that look at single rows, which no order may leave open."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from forecache.declare.sql.functions import RANKS, ROW_FUNCTIONS
from forecache.declare.sql.values import (
    BIGINT,
    NULL,
    Arguments,
    RefusedSqlError,
    Value,
    require_comparable,
    require_known,
    take,
    take_constant,
    unite,
    unsigned_zero,
    write,
)

if TYPE_CHECKING:
    from forecache.declare.sql.expressions import Expressions

Over = tuple[str, str]
_MOST_ROWS = 2**31 - 1


def compile_window(expressions: "Expressions", node: Any) -> Value:
    """The value of a function over a window."""
    require_known(node, "this", "partition_by", "order", "over")
    parts = expressions.compile_all(node.args.get("partition_by") or ())
    parts = [require_comparable(value, "partition by") for value in parts]
    order = node.args.get("order")
    keys, orders = _compile_order(expressions, order.expressions) if order is not None else ([], ["", ""])
    over = []
    for place, text in enumerate(orders):
        names = ", ".join((part.duckdb, part.spark)[place] for part in parts)
        over.append(f" OVER ({f'PARTITION BY {names} ' if parts else ''}{text})")
    function, condition = node.this, None
    if type(function).__name__ == "Filter":
        condition, function = expressions.compile_condition(function.expression.this), function.this
    name = str(function.this).lower() if type(function).__name__ == "Anonymous" else ""
    if name in (*RANKS, *ROW_FUNCTIONS):
        if not keys:
            raise RefusedSqlError(f"has {name}() over a window without an order", "Give it `order by`.", node)
        if condition is not None:
            raise RefusedSqlError(f"has {name}() with a filter", "Choose rows by `where` in a subquery.", node)
        if name in ROW_FUNCTIONS:
            _require_no_ties(name, expressions.row_key, [*parts, *keys])
        value = _look_at_rows(name, expressions.compile_all(function.expressions), (over[0], over[1]))
    else:
        frame = "" if not keys else " RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"
        framed = [text[:-1] + frame if frame else text for text in over]
        value = expressions.compile_call(function, (framed[0], framed[1]), condition)
    columns = value.columns.union(*(each.columns for each in (*parts, *keys)))
    if any(each.has_aggregate or each.has_window for each in (*parts, *keys)):
        raise RefusedSqlError("has a window over an aggregate", "Compute the aggregate in a subquery.")
    return replace(value, has_window=True, columns=columns)


def _compile_order(expressions: "Expressions", nodes: Any) -> tuple[list[Value], list[str]]:
    keys, texts = [], []
    for node in nodes:
        require_known(node, "this", "desc", "nulls_first")
        key = unsigned_zero(expressions.compile(node.this))
        way = f" {'DESC' if node.args.get('desc') else 'ASC'}"
        way += f" NULLS {'FIRST' if node.args.get('nulls_first') else 'LAST'}"
        keys.append(key)
        texts.append((key.duckdb + way, key.spark + way))
    return keys, [f"ORDER BY {', '.join(text[place] for text in texts)}" for place in (0, 1)]


def _require_no_ties(name: str, row_key: frozenset[str] | None, named: list[Value]) -> None:
    """Refuse a function if rows may be equal by all that a window partitions and orders by: their order is open."""
    if row_key is not None and row_key <= {value.duckdb for value in named}:
        return
    remedy = "First `group by` in a subquery what the window partitions and orders by."
    if row_key is not None:
        columns = ", ".join(sorted(text.replace('"', "") for text in row_key))
        remedy = f"Partition and order by all that rows are unique by, {columns}, or first `group by` in a subquery."
    raise RefusedSqlError(f"calls {name}() over rows that may tie", remedy)


def _look_at_rows(name: str, values: Arguments, over: Over) -> Value:
    if name not in ("lag", "lead"):
        take(name, values, 0, 0)
        return write(BIGINT, [], f"CAST({name}(){{w}} AS BIGINT)", over=over)
    take(name, values, 1, 3)
    offset = take_constant(name, values[1], int, 1) if len(values) > 1 else 1
    assert isinstance(offset, int)
    if offset > _MOST_ROWS:
        raise RefusedSqlError(f"calls {name}() with the number {offset}", f"It is at most {_MOST_ROWS}.")
    found = unite([values[0], *values[2:]], f"{name}()")
    if found[0].type == NULL:
        raise RefusedSqlError(f"calls {name}() with null", "Name a column.")
    if any(each.has_aggregate or each.has_window for each in values):
        raise RefusedSqlError(f"has {name}() of an aggregate", "Compute the inner one in a subquery.")
    more = ", {1}" if len(found) > 1 else ""
    return write(found[0].type, found, f"{name}({{0}}, {offset}{more}){{w}}", over=over)
