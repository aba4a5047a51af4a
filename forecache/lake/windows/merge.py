"""Nights from tiles, in numpy: each night's windows are differences of running sums, or minima of slices.

Spark's Python tasks run it on all tiles of some keys at a time. Running sums are of integers, so a difference of two is
the sum of what lies between them, to the bit.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from forecache.lake.windows.asked import Asked, key_hashes
from forecache.windows.groups import Ints, group
from forecache.windows.layout import to_double
from forecache.windows.plan import LAST_DAY, BaseColumn, Plan, PlanState

Floats = NDArray[np.float64]
_EPOCH = date(1970, 1, 1)
_BATCH_ROWS = 1 << 16


@dataclass(frozen=True)
class Merged:
    """One feature of the nights.

    Attributes:
        states: The columns of the tile that it is made from; of a mean those of the sum, then the count.
        delay_days: The window ends so many days before the night.
    """

    name: str
    aggregate: str
    days: int
    states: tuple[str, ...]
    delay_days: int = 0


@dataclass(frozen=True)
class Merge:
    """The nights of a view, as a function of its tiles.

    Attributes:
        days_active: A key has a row on a night that has a tile of it in so many days; None: in any before.
        asked: The keys that each night is asked for; None: all.
        plan: Of a live view, whose nights have states, too; None: they have features alone.
    """

    key: tuple[str, ...]
    features: tuple[Merged, ...]
    nights: tuple[date, ...]
    days_active: int | None
    asked: Asked | None = None
    plan: Plan | None = None

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Batches of key columns, `as_of` and features (double) from batches of key columns, `day` and states."""
        held = [batch for batch in batches if batch.num_rows]
        for night, rows in self.each_night(pa.Table.from_batches(held)) if held else ():
            as_of = pa.array(np.full(rows.num_rows, (night - _EPOCH).days, np.int32)).cast(pa.date32())
            yield from rows.add_column(len(self.key), "as_of", as_of).combine_chunks().to_batches(_BATCH_ROWS)

    def each_night(self, table: pa.Table) -> Iterator[tuple[date, pa.Table]]:
        """Nights that have a row, with key columns and features (double), from tiles, one at least."""
        tiles = _Tiles(table.combine_chunks(), self.key)
        # Windows of several lengths are made from the same states.
        first_of = {feature.states: feature for feature in self.features}
        hashes = key_hashes(tiles.keys, self.key) if self.asked is not None else None
        made = {states: _MAKERS[feature.aggregate](feature, tiles) for states, feature in first_of.items()}
        states = None if self.plan is None else States(self.plan, self.features, made, tiles)
        for night in self.nights:
            number = (night - _EPOCH).days
            if self.asked is not None and hashes is not None:
                tiles.choose(np.flatnonzero(self.asked.on(night, hashes)))
            since = None if self.days_active is None else number - self.days_active + 1
            first, end = tiles.between(since, number)
            active = np.flatnonzero(first < end)
            if not len(active):
                continue
            columns = {name: tiles.keys[name].take(pa.array(tiles.chosen[active])) for name in self.key}
            for feature in self.features:
                values, known = made[feature.states].night(number - feature.delay_days, feature.days)
                columns[feature.name] = pa.array(values[active], mask=~known[active])
            if states is not None:
                columns |= states.night(number, active)
            yield night, pa.table(columns)


class _Tiles:
    """Tiles by key and day; position `i` of what it returns is the key `keys[chosen[i]]`, of all keys at first."""

    def __init__(self, table: pa.Table, key: Sequence[str]) -> None:
        codes, self.keys = group(table, key)
        days = table["day"].cast(pa.int32()).to_numpy().astype(np.int64)
        self._first_day = int(days.min())
        self._span = int(days.max()) - self._first_day + 2
        place = codes * self._span + (days - self._first_day)
        self.order = np.argsort(place, kind="stable")
        self.place, self.days, self.codes = place[self.order], days[self.order], codes[self.order]
        self.table = table
        self.chosen: Ints = np.arange(self.keys.num_rows)
        self._found: dict[tuple[int | None, int], tuple[Ints, Ints]] = {}
        self._running: dict[str, Ints] = {}

    def choose(self, keys: Ints) -> None:
        """Return what these keys have from now on; their numbers, ascending."""
        self.chosen = keys
        self._found.clear()

    def between(self, since: int | None, until: int) -> tuple[Ints, Ints]:
        """For each key, where its tiles of these days begin and end, both days included; None: from the first on."""
        if (since, until) not in self._found:
            if len(self._found) > 64:
                self._found.clear()
            self._found[since, until] = (self._at(self._first_day if since is None else since), self._at(until + 1))
        return self._found[since, until]

    def _at(self, day: int) -> Ints:
        within = min(max(day - self._first_day, 0), self._span - 1)
        return np.searchsorted(self.place, self.chosen * self._span + within)

    def numbers(self, name: str) -> tuple[Any, NDArray[np.bool_]]:
        """A column in the order of the tiles, with zeros for nulls, and where it is not null."""
        column = self.table[name].combine_chunks()
        known = np.asarray(column.is_valid())[self.order]
        zero = pa.scalar(0, column.type)
        return column.fill_null(zero).to_numpy(zero_copy_only=False)[self.order], known

    def running(self, name: str) -> Ints:
        """Sums of a column before each tile and after the last; integers that overflow come back in differences."""
        if name not in self._running:
            values = self.numbers(name)[0].astype(np.int64)
            self._running[name] = np.concatenate([np.zeros(1, np.int64), np.cumsum(values)])
        return self._running[name]


class _Sum:
    def __init__(self, feature: Merged, tiles: _Tiles) -> None:
        self._tiles, self._running = tiles, [tiles.running(name) for name in feature.states]

    def night(self, night: int, days: int) -> tuple[Floats, NDArray[np.bool_]]:
        return self._value(self.sums(night, days))

    def sums(self, night: int, days: int) -> list[Ints]:
        """Of each column of the tile."""
        first, end = self._tiles.between(night - days + 1, night)
        return [running[end] - running[first] for running in self._running]

    def _value(self, sums: list[Ints]) -> tuple[Floats, NDArray[np.bool_]]:
        return to_double(sums[0], sums[1]), np.ones(len(sums[0]), bool)


class _Count(_Sum):
    def _value(self, sums: list[Ints]) -> tuple[Floats, NDArray[np.bool_]]:
        return sums[0].astype(np.float64), np.ones(len(sums[0]), bool)


class _Mean(_Sum):
    def _value(self, sums: list[Ints]) -> tuple[Floats, NDArray[np.bool_]]:
        known = sums[2] > 0
        return to_double(sums[0], sums[1]) / np.where(known, sums[2], 1), known


class _Extreme:
    def __init__(self, feature: Merged, tiles: _Tiles) -> None:
        self._tiles = tiles
        self._least = feature.aggregate == "min"
        self._nothing = np.inf if self._least else -np.inf
        values, known = tiles.numbers(feature.states[0])
        self._values = np.append(np.where(known, values, self._nothing), self._nothing)

    def night(self, night: int, days: int) -> tuple[Floats, NDArray[np.bool_]]:
        first, end = self._tiles.between(night - days + 1, night)
        slices = np.stack([first, end], axis=1).reshape(-1)
        found = (np.minimum if self._least else np.maximum).reduceat(self._values, slices)[::2]
        known = (first < end) & (found != self._nothing)
        return found, known


class _Last:
    def __init__(self, feature: Merged, tiles: _Tiles) -> None:
        self._tiles = tiles
        self._at = tiles.numbers(feature.states[0])[0]
        self._values, known = tiles.numbers(feature.states[1])
        # Of each tile the newest one up to it with a value: the rows of a day are later than those of the days before.
        self._newest = np.maximum.accumulate(np.where(known, np.arange(len(known)), -1))

    def night(self, night: int, days: int) -> tuple[Floats, NDArray[np.bool_]]:
        first, end = self._tiles.between(night - days + 1, night)
        newest = self._newest[end - 1]
        return self._values[newest], (first < end) & (newest >= first)

    def moments(self, night: int, days: int) -> Ints:
        """When the values were, microseconds."""
        _, end = self._tiles.between(night - days + 1, night)
        return self._at[self._newest[end - 1]]


class _Distinct:
    def __init__(self, feature: Merged, tiles: _Tiles) -> None:
        self._tiles = tiles
        lists = tiles.table[feature.states[0]].combine_chunks().take(pa.array(tiles.order))
        tile = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
        values = pc.list_flatten(lists).dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
        codes, days = tiles.codes[tile], tiles.days[tile]
        order = np.lexsort((days, values, codes))
        self._codes, self._days_of = codes[order], days[order]
        values = values[order]
        again = (self._codes[1:] == self._codes[:-1]) & (values[1:] == values[:-1])
        # The next day with the same value: a value counts once, on its last day of the window.
        self._next = np.append(np.where(again, self._days_of[1:], np.iinfo(np.int64).max), np.iinfo(np.int64).max)
        self._next = self._next[: len(self._codes)]

    def night(self, night: int, days: int) -> tuple[Floats, NDArray[np.bool_]]:
        last = (self._days_of > night - days) & (self._days_of <= night) & (self._next > night)
        counts = np.bincount(self._codes[last], minlength=self._tiles.keys.num_rows)[self._tiles.chosen]
        return counts.astype(np.float64), np.ones(len(counts), bool)


_MAKERS: dict[str, Any] = {
    "sum": _Sum, "count": _Count, "mean": _Mean, "min": _Extreme, "max": _Extreme, "last": _Last, "distinct": _Distinct,
}  # fmt: skip


class States:
    """The states that nights of a live view hold, see `Plan.base_columns`.

    Args:
        made: By the columns of the tile, what makes the features.
    """

    def __init__(
        self, plan: Plan, features: Sequence[Merged], made: Mapping[tuple[str, ...], Any], tiles: _Tiles
    ) -> None:
        self._columns, self._tiles = plan.base_columns, tiles
        self._delayed = {feature.name: (feature, made[feature.states]) for feature in features}
        self._of_state = {state.name: _maker_of(state, tiles) for state in plan.day_states}

    def night(self, night: int, active: Ints) -> dict[str, pa.Array]:
        """The columns of a night, int64 or float64 with nulls, for the keys in these places."""
        columns = {}
        for column in self._columns:
            values, known = self._values(column, night)
            columns[column.name] = pa.array(values[active], mask=~known[active])
        return columns

    def _values(self, column: BaseColumn, night: int) -> tuple[Any, NDArray[np.bool_]]:
        if column.name == LAST_DAY:
            first, end = self._tiles.between(None, night)
            return self._tiles.days[end - 1], first < end
        if column.feature:
            feature, maker = self._delayed[column.feature]
            values, known = maker.night(night + column.lag - feature.delay_days, feature.days)
            return values, known
        maker = self._of_state[column.state]
        if isinstance(maker, _Sum):
            sums = maker.sums(night, column.days)[column.word]
            return sums, np.ones(len(sums), bool)
        values, known = maker.night(night, column.days)
        if isinstance(maker, _Last) and column.word == 0:
            return maker.moments(night, column.days), known
        return values, known


def _maker_of(state: PlanState, tiles: _Tiles) -> Any:
    return _MAKERS[state.aggregate](Merged(state.name, state.aggregate, 1, state.words), tiles)
