"""The changes of keys and columns between two tables of a connection, by full outer joins that DuckDB spills to disk.

A join aggregates the changes of some columns at once. It finds the keys that moved most by hash; their values are then
read again.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from forecache.lake.query import quote_name
from forecache.plugins.diff.partition import Kind

COLUMNS_AT_ONCE = 24
_MORE = 3
"""Times as many keys are found as are shown, as their order is only then exact."""


@dataclass(frozen=True)
class Mover:
    """A key, as texts of its columns, whose value changed by a large distance."""

    key: tuple[str, ...]
    before: Any
    after: Any
    distance: float


@dataclass(frozen=True)
class RowCounts:
    """Keys of one side alone, keys with a change in any column, and those with a change in an answer."""

    added: int = 0
    gone: int = 0
    changed: int = 0
    answers_changed: int = 0


@dataclass(frozen=True)
class ColumnChanges:
    """The changes of a column over the keys that both sides have; see `ColumnDiff`.

    Attributes:
        pairs: Keys with a known distance, whose changes are summed up in `change` and `absolute`.
    """

    changed: int
    became_unknown: int
    became_known: int
    pairs: int
    change: float | None
    absolute: float | None
    largest: float | None
    movers: tuple[Mover, ...] = ()


@dataclass(frozen=True)
class JoinedColumn:
    """A column that both sides have; `is_measured`: its distances can be computed, `is_cast`: its types differ."""

    name: str
    kind: Kind
    is_measured: bool
    is_cast: bool

    @property
    def hash_input(self) -> str:
        """SQL of a value whose hash is equal on both sides for equal values."""
        column = quote_name(self.name)
        if not self.is_cast:  # null, no items and one that is null have the same hash
            return f"{column}, len({column})" if self.kind in ("vector", "list") else column
        return f"{column}::DOUBLE" if self.kind == "number" else f"{column}::VARCHAR"


def hash_of(key: Sequence[str], integers: Sequence[str]) -> str:
    """SQL of the hash of a key, whatever the width of its integers."""
    return f"hash({', '.join(quote_name(name) + ('::BIGINT' if name in integers else '') for name in key)})"


@dataclass(frozen=True)
class JoinedTables:
    """Two views, `before_own` and `after_own`, with the columns of the key and some others.

    Attributes:
        key_hash: SQL of the hash of the key.
        top: Keys that moved most to find, of each column that is measured.
    """

    connection: Any
    key: Sequence[str]
    key_hash: str
    columns: Sequence[JoinedColumn]
    answers: Sequence[str]
    top: int

    def compare(self) -> tuple[RowCounts, dict[str, ColumnChanges]]:
        """Count the keys and the changes of each column."""
        chunks = [self.columns[at : at + COLUMNS_AT_ONCE] for at in range(0, len(self.columns), COLUMNS_AT_ONCE)]
        counts = None if len(chunks) == 1 else self._count_rows()
        figures: dict[str, tuple[Any, ...]] = {}
        for chunk in chunks:
            parts = [] if counts else self._row_counts(chunk)
            of_columns = [_aggregates(place, column, self.top) for place, column in enumerate(chunk)]
            row = self._one(f"SELECT {', '.join([*parts, *sum(of_columns, [])])} FROM ({self._join_sql(chunk)})")
            if counts is None:
                counts, row = RowCounts(*row[:4]), row[4:]
            width = len(of_columns[0])
            for place, column in enumerate(chunk):
                figures[column.name] = row[place * width : (place + 1) * width]
        assert counts is not None
        movers = self._find_movers({name: hashes for name, (*_, hashes) in figures.items() if hashes})
        found = {name: ColumnChanges(*row[:-1]) for name, row in figures.items()}
        return counts, {name: replace(each, movers=movers.get(name, ())) for name, each in found.items()}

    def _one(self, sql: str) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self.connection.execute(sql).fetchone()
        return row

    def _join_sql(self, columns: Sequence[JoinedColumn]) -> str:
        """The rows of both sides, next to each other: h, b0.., a0.., and whether each column differs, d0.."""
        keys = [f"k{place}" for place in range(len(self.key))]
        sides = []
        for side, letter in (("before", "b"), ("after", "a")):
            of_key = [f"{quote_name(name)} AS k{place}" for place, name in enumerate(self.key)]
            values = [f"{quote_name(column.name)} AS {letter}{place}" for place, column in enumerate(columns)]
            hashed = f"{self.key_hash} AS h"
            sides.append(
                f"(SELECT {', '.join([*of_key, *values, *([hashed] if letter == 'b' else [])])} FROM {side}_own)"
            )
        same = " AND ".join(f"b.{name} = a.{name}" for name in keys)
        both = "b.k0 IS NOT NULL AND a.k0 IS NOT NULL"
        selected = [
            "b.k0 IS NOT NULL AS before_has", "a.k0 IS NOT NULL AS after_has", "h",
            *(f"{letter}.{letter}{place}" for place in range(len(columns)) for letter in "ba"),
            *(f"({both} AND b.b{place} IS DISTINCT FROM a.a{place}) AS d{place}" for place in range(len(columns))),
        ]  # fmt: skip
        return f"SELECT {', '.join(selected)} FROM {sides[0]} b FULL OUTER JOIN {sides[1]} a ON {same}"

    def _row_counts(self, columns: Sequence[JoinedColumn]) -> list[str]:
        differs = [f"d{place}" for place in range(len(columns))]
        answered = [f"d{place}" for place, column in enumerate(columns) if column.name in self.answers] or ["false"]
        return [
            "count(*) FILTER (NOT before_has)", "count(*) FILTER (NOT after_has)",
            f"count(*) FILTER ({' OR '.join(differs)})", f"count(*) FILTER ({' OR '.join(answered)})",
        ]  # fmt: skip

    def _count_rows(self) -> RowCounts:
        """Count the keys by the hashes of all their columns, as no join has all of them."""
        names = ", ".join(map(quote_name, self.key))
        hashes = [
            f"hash({', '.join(['0', *(column.hash_input for column in some)])})"
            for some in (self.columns, [column for column in self.columns if column.name in self.answers])
        ]
        sides = [
            f"(SELECT {names}, {hashes[0]} AS h, {hashes[1]} AS w FROM {side}_own)" for side in ("before", "after")
        ]
        same = " AND ".join(f"b.{quote_name(name)} = a.{quote_name(name)}" for name in self.key)
        first = quote_name(self.key[0])
        both = f"b.{first} IS NOT NULL AND a.{first} IS NOT NULL"
        return RowCounts(
            *self._one(
                f"SELECT count(*) FILTER (b.{first} IS NULL), count(*) FILTER (a.{first} IS NULL), "
                f"count(*) FILTER ({both} AND b.h <> a.h), count(*) FILTER ({both} AND b.w <> a.w) "
                f"FROM {sides[0]} b FULL OUTER JOIN {sides[1]} a ON {same}"
            )
        )

    def _find_movers(self, hashes: Mapping[str, Sequence[int]]) -> dict[str, tuple[Mover, ...]]:
        """Read the values of keys by their hashes, and order them by distance, then by key."""
        if not hashes:
            return {}
        wanted = ", ".join(map(str, sorted({each for some in hashes.values() for each in some})))
        columns = [column for column in self.columns if column.name in hashes]
        values = [quote_name(column.name) for column in columns]
        selected = ", ".join([self.key_hash, *map(quote_name, self.key), *values])
        sides = []
        for side in ("before", "after"):
            rows = self.connection.execute(
                f"SELECT {selected} FROM {side}_own WHERE {self.key_hash} IN ({wanted})"
            ).fetchall()
            sides.append({row[1 : 1 + len(self.key)]: (row[0], row[1 + len(self.key) :]) for row in rows})
        found: dict[str, tuple[Mover, ...]] = {}
        for place, column in enumerate(columns):
            own = set(hashes[column.name])
            movers = []
            for key, (hashed, before) in sides[0].items():
                if hashed in own and key in sides[1]:
                    pair = before[place], sides[1][key][1][place]
                    distance = _distance(*pair)
                    if distance > 0:
                        movers.append(Mover(tuple(map(key_text, key)), *pair, distance))
            movers.sort(key=lambda mover: (-mover.distance, mover.key))
            found[column.name] = tuple(movers[: self.top])
        return found


def _aggregates(place: int, column: JoinedColumn, top: int) -> list[str]:
    """SQL of the figures of `ColumnChanges` of a column of the join, and the hashes of the keys that moved most."""
    before, after, differs = f"b{place}", f"a{place}", f"d{place}"
    unknown = [f"{value} IS NULL" for value in (before, after)]
    if column.kind == "number":
        unknown = [f"({value} IS NULL OR isnan({value}::DOUBLE))" for value in (before, after)]
    became = [f"{differs} AND {unknown[there]} AND NOT {unknown[1 - there]}" for there in (1, 0)]
    counts = [f"count(*) FILTER ({condition})" for condition in (differs, *became)]
    if not column.is_measured:
        return [*counts, "0", "NULL", "NULL", "NULL", "NULL"]
    if column.kind == "number":
        change = f"({after}::DOUBLE - {before}::DOUBLE)"
        change = f"CASE WHEN NOT isnan({change}) THEN {change} END"
        distance = f"abs({change})"
    else:
        lists = [f"list_transform({value}, lambda x: coalesce(x, 0)::DOUBLE)" for value in (before, after)]
        fits = f"len({before}) = len({after}) AND len({before}) > 0"
        change, distance = "NULL::DOUBLE", f"CASE WHEN {fits} THEN list_distance({', '.join(lists)}) END"
    # Equal distances are ordered by hash, with factors that differ by less than 3e-7, so that all runs find the same.
    movers = f"arg_max(h, {distance} * (1 + (h % 1073741824)::DOUBLE / 4503599627370496), {top * _MORE})"
    sums = [f"count({distance})", f"sum({change})", f"sum({distance})", f"max({distance})"]
    return [*counts, *sums, movers if top else "NULL"]


def _distance(before: Any, after: Any) -> float:
    """The distance of two numbers or vectors, in which an unknown value is 0; 0.0 if there is none."""
    if before is None or after is None:
        return 0.0
    if not isinstance(before, (list, tuple)):
        distance = abs(float(after) - float(before))
    else:
        pairs = zip(before, after, strict=True) if len(before) == len(after) else ()
        distance = sum((float(new or 0) - float(old or 0)) ** 2 for old, new in pairs) ** 0.5
    return distance if distance == distance else 0.0


def key_text(value: Any) -> str:
    """A value of a key as the store writes it; 16 bytes are a UUID."""
    return str(uuid.UUID(bytes=value)) if isinstance(value, bytes) and len(value) == 16 else str(value)
