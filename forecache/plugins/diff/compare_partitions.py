"""Compares two partitions by key, with bounded memory: rows added, gone and changed, and each column's changes.

One full outer join in DuckDB, which spills to disk, aggregates all columns. Files that both sides share are not joined,
and if both consist of the same files nothing is read. Ranks and lists are compared on a sample of keys, by hash, so
that it is the same in every run. As in `GROUP BY`, null equals null, NaN equals NaN, and 0.0 equals -0.0.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecache.base.errors import InputError
from forecache.lake.query import bounded_database, quote_name
from forecache.models.registry.gate.score_metrics import spearman
from forecache.plugins.diff.distributions import (
    COUNTED,
    Bins,
    Distribution,
    choose_bins,
    describe_all,
    known_number,
    measure,
    population_stability,
)
from forecache.plugins.diff.joined_changes import (
    ColumnChanges,
    JoinedColumn,
    JoinedTables,
    Mover,
    RowCounts,
    hash_of,
)
from forecache.plugins.diff.partition import Kind, Partition, kind_of

Values = NDArray[Any]
SAMPLED_KEYS = 100_000
_SAMPLED_VALUES = 10_000_000
_TRANSITIONS = 5


@dataclass(frozen=True)
class ColumnDiff:
    """The changes of a column; figures of changes are of the keys that both sides have.

    Attributes:
        type_before, type_after: Arrow types; "": that side has no such column.
        changed: Values that differ; None if only one side has the column.
        mean_change: Mean of after - before over the keys with two known numbers, unchanged ones included.
        largest_change: Largest distance: of numbers the absolute difference, of vectors the Euclidean one.
        rank_correlation: Spearman's, over the sample; of lists the mean of those over their common items.
        overlap: Of lists, the mean share of the items in both of those in either, over the sample.
        transitions: Of texts and booleans, the most frequent changes in the sample: (before, after, keys).
    """

    name: str
    kind: Kind
    type_before: str
    type_after: str
    bins: Bins
    before: Distribution | None = None
    after: Distribution | None = None
    psi: float | None = None
    changed: int | None = None
    became_unknown: int = 0
    became_known: int = 0
    mean_change: float | None = None
    mean_absolute_change: float | None = None
    largest_change: float | None = None
    movers: Sequence[Mover] = ()
    rank_correlation: float | None = None
    overlap: float | None = None
    transitions: Sequence[tuple[str, str, int]] = ()


@dataclass(frozen=True)
class PartitionDiff:
    """Differences of two partitions.

    Attributes:
        changed: Keys of both sides with another value in any column; `answers_changed` in one of `answers`, or all of
            them if one side alone has one of these.
        sampled: Keys on which ranks, lists and quantiles are compared; all if there are no more.
        is_same_files: Both sides consist of the same files, which were not read.
    """

    table: str
    key: tuple[str, ...]
    answers: tuple[str, ...]
    rows_before: int
    rows_after: int
    added: int = 0
    gone: int = 0
    changed: int = 0
    answers_changed: int = 0
    sampled: int = 0
    is_same_files: bool = False
    columns: Sequence[ColumnDiff] = ()

    @property
    def unchanged(self) -> int:
        """Keys of both sides with equal values in every column."""
        return self.rows_before - self.gone - self.changed

    @property
    def differs(self) -> bool:
        return bool(self.added or self.gone or self.changed or any(each.changed is None for each in self.columns))

    @property
    def changed_share(self) -> float:
        """Share of the keys of either side whose answer is another one, or on one side only."""
        either = self.rows_before + self.added
        return (self.added + self.gone + self.answers_changed) / either if either else 0.0


def compare_partitions(
    before: Partition, after: Partition, key: Sequence[str], *, answers: Sequence[str] = (), top: int = 5
) -> PartitionDiff:
    """Compare two partitions whose rows have unique keys.

    Args:
        answers: The columns that are answers; (): all.
        top: Keys that moved most, of each column of numbers or vectors.

    Raises:
        InputError: A side has rows and lacks a column of the key, or both have one of different kinds.
    """
    ours, theirs = ({side.identity(file): file for file in side.files} for side in (before, after))
    table = after.table if after.files else before.table
    same = PartitionDiff(
        table, tuple(key), tuple(answers), before.rows, after.rows, is_same_files=ours.keys() == theirs.keys()
    )
    if same.is_same_files:
        return same
    for side in (before, after):
        missing = [name for name in key if side.files and name not in side.types]
        if missing:
            raise InputError(
                f"{side.table} of {side.settings.env or 'this installation'} has no column {missing[0]!r}, which is "
                "part of the key."
            )
    for name in key if before.files and after.files else ():
        kinds = [kind_of(side.types[name]) for side in (before, after)]
        if kinds[0] != kinds[1]:
            raise InputError(
                f"The key {name!r} of {table} is a {kinds[0]} before and a {kinds[1]} after, so no row has a partner."
            )
    with bounded_database(Path(tempfile.gettempdir())) as connection:  # an environment is only read
        # The statistics of a Parquet file leave NaN out, and by them DuckDB 2.0 takes isnan() to be false.
        connection.execute("SET disabled_optimizers = 'statistics_propagation'; SET preserve_insertion_order = false")
        before.register(connection, "before_all", before.files)
        after.register(connection, "after_all", after.files)
        before.register(connection, "before_own", [file for each, file in ours.items() if each not in theirs])
        after.register(connection, "after_own", [file for each, file in theirs.items() if each not in ours])
        return _PartitionComparison(connection, before, after, same, top).run()


class _PartitionComparison:
    """The comparison of two partitions that a connection has views of."""

    def __init__(self, connection: Any, before: Partition, after: Partition, about: PartitionDiff, top: int) -> None:
        self.connection, self.about, self.top = connection, about, top
        self.types = ({**before.types}, {**after.types})
        names = [name for name in dict.fromkeys([*before.types, *after.types]) if name not in about.key]
        self.common = [name for name in names if all(name in types for types in self.types)]
        self.names = names
        self.kinds: dict[str, Kind] = {}
        for name in names:
            kinds = {kind_of(types[name]) for types in self.types if name in types}
            self.kinds[name] = kinds.pop() if len(kinds) == 1 else "other"
        self.answers = [name for name in about.answers or names if name in self.common]
        most = min(SAMPLED_KEYS, _SAMPLED_VALUES // max(1, len(names)))
        integers = [name for name in about.key if all(_is_integer(types.get(name)) for types in self.types if types)]
        self.key_hash = hash_of(about.key, integers)
        self.every = max(1, max(about.rows_before, about.rows_after) // most)

    def run(self) -> PartitionDiff:
        about = self.about
        for side, types in zip(("before", "after"), self.types, strict=True):
            where = f"{self.key_hash} % {self.every} = 0" if types else "false"
            self.connection.execute(f"CREATE TEMP TABLE {side}_sample AS SELECT * FROM {side}_all WHERE {where}")
        keys = f"SELECT {', '.join(map(quote_name, about.key))} FROM "
        sides = [f"{keys}{side}_sample" for side, types in zip(("before", "after"), self.types, strict=True) if types]
        sampled = self._one(f"SELECT count(*) FROM ({' UNION '.join(sides)})")[0]
        counts, found = self._compare_rows()
        one_sided = {*self.names} - {*self.common}
        if all(self.types) and one_sided & {*about.answers}:
            counts = replace(counts, answers_changed=about.rows_before - counts.gone)
        samples = [{name: self._sample(side, name) for name in self.names} for side in (0, 1)]
        bins = {name: choose_bins(self.kinds[name], samples[0][name], samples[1][name]) for name in self.names}
        described: list[Mapping[str, Distribution]] = []
        judged: list[Mapping[str, list[int]]] = []
        for side, place in (("before", 0), ("after", 1)):
            kinds = {name: self.kinds[name] for name in self.names if name in self.types[place]}
            distributions, of_side = describe_all(self.connection, f"{side}_all", kinds, bins, samples[place])
            described.append(distributions)
            judged.append(of_side)
        columns = [self._column(name, bins[name], described, judged, found.get(name)) for name in self.names]
        return replace(about, **vars(counts), sampled=sampled, columns=columns)

    def _one(self, sql: str) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self.connection.execute(sql).fetchone()
        return row

    def _compare_rows(self) -> tuple[RowCounts, dict[str, ColumnChanges]]:
        """The counts of keys, and the changes of the columns that both sides have."""
        if not all(self.types):
            return RowCounts(added=self.about.rows_after, gone=self.about.rows_before), {}
        columns = []
        for name in self.common:
            types = [types[name] for types in self.types]
            is_measured = self.kinds[name] in ("number", "vector") and len({kind_of(each) for each in types}) == 1
            columns.append(JoinedColumn(name, self.kinds[name], is_measured, types[0] != types[1]))
        return JoinedTables(self.connection, self.about.key, self.key_hash, columns, self.answers, self.top).compare()

    def _sample(self, side: int, name: str) -> Values:
        """The values of a column in the sample of a side; none if it has no such column, or none that is counted."""
        if name not in self.types[side] or self.kinds[name] == "other":
            return np.array([])
        kind = self.kinds[name]
        is_text = kind in ("text", "boolean")
        value = f"{quote_name(name)}::VARCHAR" if is_text else measure(name, kind)
        rows = self.connection.execute(f"SELECT {value} AS v FROM {('before', 'after')[side]}_sample").fetchnumpy()["v"]
        return _as_values(rows, is_text)

    def _column(
        self,
        name: str,
        bins: Bins,
        described: Sequence[Mapping[str, Distribution]],
        judged: Sequence[Mapping[str, list[int]]],
        found: ColumnChanges | None,
    ) -> ColumnDiff:
        types = [str(types[name]) if name in types else "" for types in self.types]
        made = ColumnDiff(
            name, self.kinds[name], types[0], types[1], bins,
            before=described[0].get(name), after=described[1].get(name),
        )  # fmt: skip
        if found is None:
            return made
        pairs = found.pairs
        if pairs and self.shared_rows:  # known values of the files that both sides share, which were not joined
            pairs += described[0][name].rows - described[0][name].unknown - self.own_known[name]
        return replace(
            made,
            psi=population_stability(judged[0].get(name, ()), judged[1].get(name, ())),
            changed=found.changed,
            became_unknown=found.became_unknown,
            became_known=found.became_known,
            mean_change=None if found.change is None or not pairs else found.change / pairs,
            mean_absolute_change=None if found.absolute is None or not pairs else found.absolute / pairs,
            largest_change=found.largest,
            movers=found.movers,
            **(self._compare_sampled(name) if found.changed else {}),
        )

    @cached_property
    def shared_rows(self) -> int:
        """Rows of the files that both sides share, which were not joined."""
        return int(self._one("SELECT (SELECT count(*) FROM before_all) - (SELECT count(*) FROM before_own)")[0])

    @cached_property
    def own_known(self) -> dict[str, int]:
        """The number of known values before, by column, in the files that the sides do not share."""
        names = [name for name in self.common if self.kinds[name] in COUNTED]
        counts = ", ".join(f"count({known_number(name, self.kinds[name])})" for name in names)
        return dict(zip(names, self._one(f"SELECT {counts} FROM before_own"), strict=True))

    def _compare_sampled(self, name: str) -> dict[str, Any]:
        """Ranks, overlap and transitions of a column over the keys that both samples have."""
        kind, column = self.kinds[name], quote_name(name)
        if kind not in ("number", "list", "text", "boolean"):
            return {}
        shown = {"number": f"{column}::DOUBLE", "list": column}.get(kind, f"{column}::VARCHAR")
        shown = shown.replace(column, "{side}." + column)
        same = " AND ".join(f"b.{quote_name(each)} = a.{quote_name(each)}" for each in self.about.key)
        found = self.connection.execute(
            f"SELECT {shown.format(side='b')} AS b, {shown.format(side='a')} AS a FROM before_sample b "
            f"JOIN after_sample a ON {same}"
        )
        if kind == "list":
            return _compare_lists(found.fetchall())
        if kind == "number":
            sides = found.fetchnumpy()
            before, after = (_as_values(sides[side], False) for side in "ba")
            known = ~np.isnan(before) & ~np.isnan(after)
            value = spearman(before[known], after[known]) if known.sum() > 1 else float("nan")
            return {"rank_correlation": None if np.isnan(value) else value}
        pairs = Counter((str(a), str(b)) for a, b in found.fetchall() if a != b)
        ordered = sorted(pairs.items(), key=lambda each: (-each[1], each[0]))[:_TRANSITIONS]
        return {"transitions": tuple((*pair, count) for pair, count in ordered)}


def _is_integer(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind))


def _as_values(values: Any, is_text: bool) -> Values:
    """Values that DuckDB returned, as objects with None, or as float64 with NaN, for null."""
    if is_text:
        texts: Values = np.ma.getdata(values).astype(object)
        texts[np.ma.getmaskarray(values)] = None
        return texts
    numbers: Values = np.ma.filled(np.ma.MaskedArray(values).astype(np.float64), np.nan)
    return numbers


def _compare_lists(rows: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
    """Mean overlap of lists (Jaccard's, of their items), and mean rank correlation of the items that both have."""
    overlaps, ranks = [], []
    for before, after in rows:
        ours, theirs = list(_items(before)), list(_items(after))
        either = set(ours) | set(theirs)
        overlaps.append(len(set(ours) & set(theirs)) / len(either) if either else 1.0)
        common = [item for item in dict.fromkeys(ours) if item in set(theirs)]
        if len(common) > 1:
            places = np.array([theirs.index(item) for item in common], float)
            ranks.append(spearman(np.arange(len(common), dtype=float), places))
    overlap, correlation = (float(np.mean(values)) if values else None for values in (overlaps, ranks))
    return {"overlap": overlap, "rank_correlation": correlation}


def _items(value: Any) -> Iterator[Any]:
    """The items of a list; of structures their first field."""
    for each in value or ():
        yield str(next(iter(each.values()), None)) if isinstance(each, dict) else str(each)
