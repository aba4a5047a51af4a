"""Compiles the queries of a statement: what they read, join, group and unite."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from forecache.base.table_names import AS_OF
from forecache.declare.sql.expressions import Expressions
from forecache.declare.sql.relations import (
    ENGINES,
    ROWS,
    Relation,
    Scope,
    Table,
    duckdb_name,
    find_key,
    key_of_all,
    mark_table,
    qualify,
    select_text,
    spark_name,
)
from forecache.declare.sql.values import (
    BIGINT,
    RefusedSqlError,
    SqlType,
    Value,
    known_number,
    require_comparable,
    require_known,
    unite,
)


class QueryCompiler:
    """Compiles a query over tables, whose rows are unique by the columns in `keys`."""

    def __init__(self, tables: Mapping[str, Table], keys: Mapping[str, Collection[str]]) -> None:
        self.tables, self.keys = tables, keys
        self.named: list[tuple[str, tuple[str, str]]] = []  # what WITH names, in the order in which it is used
        self.common: dict[str, Relation] = {}

    def compile(self, node: Any) -> Relation:
        """A query: a SELECT, or several that are united."""
        try:
            return self._query(node)
        except RefusedSqlError as error:
            error.node = error.node or node
            raise

    def _query(self, node: Any) -> Relation:
        kind, outer = type(node).__name__, dict(self.common)
        if kind == "Subquery":
            require_known(node, "this")
            return self.compile(node.this)
        if kind not in ("Select", "Union", "Except", "Intersect"):
            raise RefusedSqlError(f"is a statement of the kind {kind.upper()}", "Write a SELECT.")
        if node.args.get("with_") is not None:
            require_known(node.args["with_"], "expressions")
            for each in node.args["with_"].expressions:
                require_known(each, "this", "alias")
                if each.args["alias"].columns:
                    raise RefusedSqlError("names the columns of a WITH", "Name them in its SELECT.", each)
                relation = self.compile(each.this)
                name = f"with_{len(self.named) + 1}"
                self.named.append((name, (relation.duckdb, relation.spark)))
                named = replace(relation, duckdb=duckdb_name(name), spark=spark_name(name))
                self.common[each.alias.lower()] = named
        try:
            return self._select(node) if kind == "Select" else self._unite(node, kind)
        finally:
            self.common = outer

    def _unite(self, node: Any, kind: str) -> Relation:
        require_known(node, "this", "expression", "distinct", "with_")
        distinct = bool(node.args.get("distinct"))
        if kind != "Union" and not distinct:
            raise RefusedSqlError(f"has {kind.upper()} ALL", f"Write {kind.upper()}.")
        sides = [self.compile(node.this), self.compile(node.expression)]
        if len(sides[0].columns) != len(sides[1].columns):
            counts = " and ".join(str(len(side.columns)) for side in sides)
            raise RefusedSqlError(f"unites queries of {counts} columns", "Select the same columns in each.")
        names = list(sides[0].columns)
        qualified = [list(qualify(side.columns, ROWS).values()) for side in sides]
        pairs = [unite(pair, kind.lower()) for pair in zip(*qualified, strict=True)]
        texts = []
        for place, side in enumerate(sides):
            columns = {name: pair[place] for name, pair in zip(names, pairs, strict=True)}
            rest = f" FROM ({side.duckdb}) AS {duckdb_name(ROWS)}", f" FROM ({side.spark}) AS {spark_name(ROWS)}"
            texts.append(select_text(columns, rest))
        columns = {
            name: replace(
                pair[0],
                is_as_of=all(values[place].is_as_of for values in qualified),
                has_one_value=all(values[place].has_one_value for values in qualified),
            )
            for place, (name, pair) in enumerate(zip(names, pairs, strict=True))
        }
        if distinct:
            for value in columns.values():
                require_comparable(value, kind.lower())
        word = f" {kind.upper()} " if distinct else f" {kind.upper()} ALL "
        united = [f"({texts[0][place]}){word}({texts[1][place]})" for place in (0, 1)]
        return Relation(columns, united[0], united[1], key_of_all(columns) if distinct else None)

    def _select(self, node: Any) -> Relation:
        require_known(node, "expressions", "from_", "joins", "where", "group", "having", "distinct", "with_", "kind")
        if node.args.get("from_") is None:
            raise RefusedSqlError("has no FROM", f"Select from {', '.join(self.tables)}.")
        scope, rest = self._from(node)
        expressions = Expressions(scope.find, scope.key)
        if node.args.get("where") is not None:
            condition = self._condition(expressions, node.args["where"].this, "where")
            rest = f"{rest[0]} WHERE {condition.duckdb}", f"{rest[1]} WHERE {condition.spark}"
        columns = self._select_list(node, scope, expressions)
        keys = self._group_keys(node, expressions, columns)
        is_grouped = bool(keys) or any(value.has_aggregate for value in columns.values()) or node.args.get("having")
        having, row_key = None, scope.key
        if is_grouped:
            row_key = frozenset(key.duckdb for key in keys if not key.has_one_value)
            expressions.aliases = {}
            expressions.groups = frozenset(key.duckdb for key in keys)
            columns = self._select_list(node, scope, expressions)
            if keys:
                texts = [", ".join(text(key) for key in keys) for text, _ in ENGINES]
                rest = f"{rest[0]} GROUP BY {texts[0]}", f"{rest[1]} GROUP BY {texts[1]}"
            if node.args.get("having") is not None:
                having = self._condition(expressions, node.args["having"].this, "having")
                rest = f"{rest[0]} HAVING {having.duckdb}", f"{rest[1]} HAVING {having.spark}"
            self._require_grouped(node, columns, having)
        distinct = node.args.get("distinct") is not None
        if distinct:
            require_known(node.args["distinct"])
            for value in columns.values():
                require_comparable(value, "distinct")
        key = find_key(columns, row_key)
        if key is None and distinct:
            key = key_of_all(columns)
        return Relation(columns, *select_text(columns, rest, distinct=distinct), key)

    def _require_grouped(self, node: Any, columns: Mapping[str, Value], having: Value | None) -> None:
        for value in [*columns.values(), *([having] if having else [])]:
            if value.has_window:
                raise RefusedSqlError("has a window in a query that groups", "Group in a subquery.")
            if value.columns:
                name = min(value.columns).replace('"', "")
                rule = "Add it to `group by`, or take min(), max() or arg_max() of it."
                raise RefusedSqlError(f"has the column {name}, which is neither grouped by nor aggregated", rule)

    def _condition(self, expressions: Expressions, node: Any, word: str) -> Value:
        condition = expressions.compile(node)
        wrong = condition.has_window or (condition.has_aggregate and word != "having")
        if wrong or condition.type.name not in ("boolean", "null"):
            what = "a function over a window or an aggregate" if wrong else f"a {condition.type}"
            raise RefusedSqlError(f"has {what} as its {word}", "Give a condition; compute in a subquery.", node)
        return condition

    def _select_list(self, node: Any, scope: Scope, expressions: Expressions) -> dict[str, Value]:
        columns: dict[str, Value] = {}

        def add(name: str, value: Value, each: Any) -> None:
            if name.lower() in (known.lower() for known in columns):
                raise RefusedSqlError(f"has two columns named {name!r}", "Give one another name.", each)
            columns[name] = value
            expressions.aliases.setdefault(name.lower(), value)

        for each in node.expressions:
            kind = type(each).__name__
            if kind == "Star" or (kind == "Column" and type(each.this).__name__ == "Star"):
                require_known(each if kind == "Star" else each.this)
                for name, value in scope.all_columns(each.text("table") or None if kind == "Column" else None, each):
                    value = replace(value, columns=frozenset()) if value.duckdb in expressions.groups else value
                    add(name, value, each)
                continue
            try:
                value = expressions.compile(each)
            except RefusedSqlError as error:
                if not error.remedy:
                    error.remedy = f"Columns are {', '.join(scope.known_columns())}."
                raise
            name = each.alias if kind == "Alias" else each.name if kind == "Column" else ""
            if not name:
                raise RefusedSqlError("has a column without a name", "Name it: `... as name`.", each)
            add(name, value, each)
        return columns

    def _group_keys(self, node: Any, expressions: Expressions, columns: Mapping[str, Value]) -> list[Value]:
        group = node.args.get("group")
        if group is None:
            return []
        require_known(group, "expressions", "all")
        listed = list(columns.values())
        if group.args.get("all"):
            keys = [value for value in listed if not value.has_aggregate and value.columns]
        else:
            keys = []
            for each in group.expressions:
                place = int(each.this) if type(each).__name__ == "Literal" and not each.is_string else None
                if place is not None and not 1 <= place <= len(listed):
                    raise RefusedSqlError(f"groups by the column {place}", f"There are {len(listed)}.", each)
                keys.append(expressions.compile(each) if place is None else listed[place - 1])
        for key in keys:
            if key.has_aggregate or key.has_window or not key.columns:
                raise RefusedSqlError(
                    "groups by what is no column", "Group by columns, or what is computed of them.", group
                )
            require_comparable(key, "group by")
        return list({key.duckdb: key for key in keys}.values())

    def _from(self, node: Any) -> tuple[Scope, tuple[str, str]]:
        alias, relation = self._table(node.args["from_"].this)
        scope = Scope(alias, relation)
        rest = f" FROM {relation.duckdb}", f" FROM {relation.spark}"
        for join in node.args.get("joins") or ():
            try:
                rest = self._join(scope, rest, join)
            except RefusedSqlError as error:
                error.node = error.node or join
                raise
        return scope, rest

    def _join(self, scope: Scope, rest: tuple[str, str], join: Any) -> tuple[str, str]:
        require_known(join, "this", "side", "kind", "on", "using")
        side, kind = (join.args.get("side") or "").upper(), (join.args.get("kind") or "").upper()
        word = {"OUTER": "", "INNER": ""}.get(kind, kind) or side or "INNER"
        if word not in ("INNER", "LEFT", "RIGHT", "FULL", "CROSS", "SEMI", "ANTI") or (side and word != side):
            raise RefusedSqlError(
                f"has {side} {kind} JOIN".replace("  ", " "), "Join inner, left, right, full, semi or anti."
            )
        alias, relation = self._table(join.this)
        if alias.lower() in (name.lower() for name in scope.relations):
            raise RefusedSqlError(f"has two tables named {alias!r}", "Give one another name: `... as name`.", join)
        using = [each.name for each in join.args.get("using") or ()]
        before = {name: self._unambiguous(scope, name, join) for name in using}
        scope.add(alias, relation)
        conditions: list[Value] = []
        merged, same = dict[str, Value](), dict[str, str]()
        for name in using:
            right = scope.find(alias, name, join)
            assert right is not None
            pair = unite([before[name], right], "using")
            conditions.append(_equal(*pair))
            merged[name.lower()] = _merge(word, before[name], right, pair)
            if before[name].type == right.type:
                texts = [before[name].duckdb, right.duckdb]
                same |= {texts[0]: texts[1]} if word == "RIGHT" else {texts[1]: texts[0]}
        if join.args.get("on") is not None:
            conditions.append(self._condition(Expressions(scope.find), join.args["on"], "on"))
        if not conditions and word != "INNER":
            if word != "CROSS":
                raise RefusedSqlError(f"has {word} JOIN without a condition", "Give it `on` or `using`.", join)
        elif not conditions:
            word = "CROSS"
        scope.end_join(word, alias, relation, merged, same)
        ons = [f" ON {' AND '.join(text(each) for each in conditions)}" if conditions else "" for text, _ in ENGINES]
        spark = f"LEFT {word}" if word in ("SEMI", "ANTI") else word
        return f"{rest[0]} {word} JOIN {relation.duckdb}{ons[0]}", f"{rest[1]} {spark} JOIN {relation.spark}{ons[1]}"

    def _unambiguous(self, scope: Scope, name: str, join: Any) -> Value:
        value = scope.find(None, name, join)
        if value is None:
            known = ", ".join(scope.known_columns())
            raise RefusedSqlError(f"names the column {name!r}, which is not there", f"Columns are {known}.", join)
        return value

    def _table(self, node: Any) -> tuple[str, Relation]:
        """The alias of what stands in FROM or JOIN, and the relation, whose texts have the alias."""
        kind = type(node).__name__
        if kind == "Subquery":
            require_known(node, "this", "alias")
            if not node.alias or node.args["alias"].columns:
                raise RefusedSqlError("has a subquery without a name", "Name it: `(select ...) as name`.", node)
            relation = self.compile(node.this)
            relation = replace(relation, duckdb=f"({relation.duckdb})", spark=f"({relation.spark})")
            return node.alias, self._with_alias(relation, node.alias)
        if kind != "Table" or type(node.this).__name__ != "Identifier":
            raise RefusedSqlError("reads something other than a table", f"Tables are {', '.join(self.tables)}.", node)
        require_known(node, "this", "alias")
        name, alias = node.name, node.alias or node.name
        if name.lower() in self.common:
            return alias, self._with_alias(self.common[name.lower()], alias)
        table = next((each for each in self.tables if each.lower() == name.lower()), None)
        if table is None:
            raise RefusedSqlError(
                f"names the table {name!r}, which is not there", f"Tables are {', '.join(self.tables)}.", node
            )
        columns = _read_columns(self.tables[table])
        rows = select_text(columns, (f" FROM {mark_table(table)}", f" FROM {mark_table(table)}"))
        key = frozenset(self.keys[table]) if table in self.keys else None
        return alias, self._with_alias(Relation(columns, f"({rows[0]})", f"({rows[1]})", key), alias)

    def _with_alias(self, relation: Relation, alias: str) -> Relation:
        texts = f"{relation.duckdb} AS {duckdb_name(alias)}", f"{relation.spark} AS {spark_name(alias)}"
        return replace(relation, duckdb=texts[0], spark=texts[1])


def _read_columns(table: Table) -> dict[str, Value]:
    """The columns of a table as they are read: whole numbers as bigint, NaN as null."""
    columns = {}
    for name, kind in table.items():
        texts = duckdb_name(name), spark_name(name)
        value = Value(
            SqlType("bigint" if kind == "int" else kind), *texts, is_as_of=name == AS_OF, has_one_value=name == AS_OF
        )
        if kind == "int":
            value = replace(value, duckdb=f"CAST({texts[0]} AS BIGINT)", spark=f"CAST({texts[1]} AS BIGINT)")
        if kind == "timestamp":
            # The table has it with its zone, UTC.
            value = replace(value, duckdb=f"make_timestamp(epoch_us({texts[0]}))")
        columns[name] = known_number(value)
    return columns


def _equal(first: Value, second: Value) -> Value:
    return Value(BIGINT, f"({first.duckdb} = {second.duckdb})", f"({first.spark} = {second.spark})")


def _merge(word: str, left: Value, right: Value, pair: Sequence[Value]) -> Value:
    """The column of USING, which is the one of the side that has each row."""
    if word == "RIGHT":
        return right
    if word != "FULL":
        return left
    first, second = pair
    texts = f"coalesce({first.duckdb}, {second.duckdb})", f"coalesce({first.spark}, {second.spark})"
    return Value(
        first.type,
        *texts,
        first.columns | second.columns,
        is_as_of=left.is_as_of and right.is_as_of,
        has_one_value=left.has_one_value and right.has_one_value,
    )
