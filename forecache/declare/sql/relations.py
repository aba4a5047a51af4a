"""Relations that a query reads: their columns, the names that it sees them by, and what their rows are unique by."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from forecache.declare.sql.values import RefusedSqlError, Value

Table = Mapping[str, str]
"""The columns of a table, with the type that each is declared with."""


def mark_table(table: str) -> str:
    """Return the mark of a table in the text of a query, for which its rows are put later."""
    return f"\x01{table}\x01"


def duckdb_name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def spark_name(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


ROWS = "rows"
ENGINES: tuple[tuple[Callable[[Value], str], Callable[[str], str]], ...] = (
    (lambda value: value.duckdb, duckdb_name),
    (lambda value: value.spark, spark_name),
)


@dataclass(frozen=True)
class Relation:
    """Rows: those of a table or a query.

    Attributes:
        columns: Values in the scope of what it comes from.
        key: Columns by which no two rows are equal, without those that have one value; None if none are known.
    """

    columns: Mapping[str, Value]
    duckdb: str
    spark: str
    key: frozenset[str] | None = None


def qualify(columns: Mapping[str, Value], alias: str) -> dict[str, Value]:
    """The columns of a relation as values of a scope in which it has a name."""
    qualified = {}
    for name, value in columns.items():
        texts = [f"{quote(alias)}.{quote(name)}" for _, quote in ENGINES]
        known = {"is_as_of": value.is_as_of, "has_one_value": value.has_one_value}
        qualified[name] = Value(value.type, texts[0], texts[1], frozenset([texts[0]]), **known)
    return qualified


def find_key(columns: Mapping[str, Value], texts: Collection[str] | None) -> frozenset[str] | None:
    """The names of the columns that are the expressions of a key, given as DuckDB's texts; None if one is missing."""
    names = {value.duckdb: name for name, value in columns.items()}
    return None if texts is None or not names.keys() >= {*texts} else frozenset(names[text] for text in texts)


def key_of_all(columns: Mapping[str, Value]) -> frozenset[str]:
    """The key of rows no two of which are equal."""
    return frozenset(name for name, value in columns.items() if not value.has_one_value)


def select_text(columns: Mapping[str, Value], rest: tuple[str, str], *, distinct: bool = False) -> tuple[str, str]:
    word = "SELECT DISTINCT" if distinct else "SELECT"
    lists = [", ".join(f"{text(value)} AS {quote(name)}" for name, value in columns.items()) for text, quote in ENGINES]
    return f"{word} {lists[0]}{rest[0]}", f"{word} {lists[1]}{rest[1]}"


class Scope:
    """The columns that a query sees, by the names of what is in its FROM.

    Attributes:
        merged: The columns of USING.
        key: Texts for DuckDB of columns by which no two rows are equal; None if none are known.
    """

    def __init__(self, alias: str, relation: Relation) -> None:
        self.relations = {alias: qualify(relation.columns, alias)}
        self.merged: dict[str, Value] = {}
        self.key = self._key_texts(alias, relation)

    def _key_texts(self, alias: str, relation: Relation) -> frozenset[str] | None:
        return None if relation.key is None else frozenset(self.relations[alias][name].duckdb for name in relation.key)

    def add(self, alias: str, relation: Relation) -> None:
        """Add the columns of a relation that is joined; `end_join` follows."""
        self.relations[alias] = qualify(relation.columns, alias)

    def end_join(
        self, word: str, alias: str, relation: Relation, merged: Mapping[str, Value], same: Mapping[str, str]
    ) -> None:
        """Change what is known of the columns and the key by the join of a relation.

        Args:
            same: By the text of a column of USING, the text of the one that it is equal to where it is not null.
        """
        if word in ("SEMI", "ANTI"):
            del self.relations[alias]
            return
        # A row of a join is one row of each side, or one of a side alone. Of a full join both sides may be alone.
        key, other = self.key, self._key_texts(alias, relation)
        known = word != "FULL" and key is not None and other is not None
        self.key = frozenset(same.get(text, text) for text in (key or set()) | (other or set())) if known else None
        for name, columns in self.relations.items():
            if word == "FULL" or word == ("LEFT" if name == alias else "RIGHT"):
                columns.update({each: replace(value, has_one_value=False) for each, value in columns.items()})
        if word in ("RIGHT", "FULL"):
            self.merged = {name: replace(value, has_one_value=False) for name, value in self.merged.items()}
        self.merged.update(merged)

    def find(self, table: str | None, name: str, node: Any) -> Value | None:
        if table is not None:
            columns = next((c for alias, c in self.relations.items() if alias.lower() == table.lower()), None)
            if columns is None:
                known = ", ".join(self.relations)
                raise RefusedSqlError(f"names the table {table!r}, which is not there", f"There are {known}.", node)
            found = [columns]
        else:
            if name.lower() in self.merged:
                return self.merged[name.lower()]
            found = list(self.relations.values())
        values = [value for columns in found for each, value in columns.items() if each.lower() == name.lower()]
        if len(values) > 1:
            raise RefusedSqlError(f"names the column {name!r}, which several tables have", "Name the table.", node)
        if not values and table is not None:
            raise RefusedSqlError(
                f"names the column {table}.{name}, which is not there", f"Its columns are {', '.join(found[0])}.", node
            )
        return values[0] if values else None

    def known_columns(self) -> list[str]:
        return list(dict.fromkeys(name for columns in self.relations.values() for name in columns))

    def all_columns(self, table: str | None, node: Any) -> list[tuple[str, Value]]:
        """The columns of `*`; a column of USING is there once."""
        if table is not None:
            self.find(table, next(iter(self.relations[table])) if table in self.relations else "", node)
            return list(self.relations[table].items())
        pairs, seen = [], set()
        for columns in self.relations.values():
            for name, value in columns.items():
                if name.lower() in self.merged:
                    if name.lower() in seen:
                        continue
                    seen.add(name.lower())
                    value = self.merged[name.lower()]
                pairs.append((name, value))
        return pairs
