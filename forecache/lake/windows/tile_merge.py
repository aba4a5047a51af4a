"""Merges tiles to the features of nights, in numpy: windows are differences of running sums, or minima of slices.

Running sums are integers, so a difference of two is exactly the sum of the values between them. Spark's Python tasks
run it on all tiles of some keys at a time.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from forecache.kit.windows.plan import LAST_DAY, BaseColumn, MergePlan, PlanState
from forecache.kit.windows.states import number_keys
from forecache.kit.windows.tiles import Ints, to_double
from forecache.lake.windows.key_hashes import KeyHashesByNight, key_hashes

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class WindowFeature:
    """A feature that is the aggregate of a window of days."""

    name: str
    aggregate: str
    days: int
    states: tuple[str, ...]  # tile columns; for a mean those of the sum, then the count
    delay_days: int = 0  # the window ends so many days before the night


class NightTiles:
    """Tiles sorted by key and day; arrays for keys have the key `keys[chosen[i]]` at `i`, initially all keys."""

    def __init__(self, table: pa.Table, key: Sequence[str]) -> None:
        codes, self.keys = number_keys(table, key)
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

    def select_keys(self, keys: Ints) -> None:
        """Restrict later results to keys with these numbers, ascending."""
        self.chosen = keys
        self._found.clear()

    def tile_range(self, since: int | None, until: int) -> tuple[Ints, Ints]:
        """For each key, the first position and the end of its tiles from day `since` (None: the first) to `until`."""
        if (since, until) not in self._found:
            if len(self._found) > 64:
                self._found.clear()
            self._found[since, until] = (
                self._first_position(self._first_day if since is None else since),
                self._first_position(until + 1),
            )
        return self._found[since, until]

    def _first_position(self, day: int) -> Ints:
        within = min(max(day - self._first_day, 0), self._span - 1)
        return np.searchsorted(self.place, self.chosen * self._span + within)

    def column_values(self, name: str) -> tuple[Any, NDArray[np.bool_]]:
        """A column in the order of the tiles, with zeros for nulls, and the mask of its values that are not null."""
        column = self.table[name].combine_chunks()
        known = np.asarray(column.is_valid())[self.order]
        zero = pa.scalar(0, column.type)
        return column.fill_null(zero).to_numpy(zero_copy_only=False)[self.order], known

    def running_sums(self, name: str) -> Ints:
        """Sums of a column before each tile and after the last; differences are right even if sums overflow."""
        if name not in self._running:
            values = self.column_values(name)[0].astype(np.int64)
            self._running[name] = np.concatenate([np.zeros(1, np.int64), np.cumsum(values)])
        return self._running[name]


class SumAggregate:
    def __init__(self, feature: WindowFeature, tiles: NightTiles) -> None:
        self._tiles, self._running = tiles, [tiles.running_sums(name) for name in feature.states]

    def night(self, night: int, days: int) -> tuple[Floats, NDArray[np.bool_]]:
        return self._value(self.sums(night, days))

    def sums(self, night: int, days: int) -> list[Ints]:
        """The sum of each tile column over the window, for each key."""
        first, end = self._tiles.tile_range(night - days + 1, night)
        return [running[end] - running[first] for running in self._running]

    def _value(self, sums: list[Ints]) -> tuple[Floats, NDArray[np.bool_]]:
        return to_double(sums[0], sums[1]), np.ones(len(sums[0]), bool)


class _CountAggregate(SumAggregate):
    def _value(self, sums: list[Ints]) -> tuple[Floats, NDArray[np.bool_]]:
        return sums[0].astype(np.float64), np.ones(len(sums[0]), bool)


class _MeanAggregate(SumAggregate):
    def _value(self, sums: list[Ints]) -> tuple[Floats, NDArray[np.bool_]]:
        known = sums[2] > 0
        return to_double(sums[0], sums[1]) / np.where(known, sums[2], 1), known


class _ExtremeAggregate:
    def __init__(self, feature: WindowFeature, tiles: NightTiles) -> None:
        self._tiles = tiles
        self._least = feature.aggregate == "min"
        self._nothing = np.inf if self._least else -np.inf
        values, known = tiles.column_values(feature.states[0])
        self._values = np.append(np.where(known, values, self._nothing), self._nothing)

    def night(self, night: int, days: int) -> tuple[Floats, NDArray[np.bool_]]:
        first, end = self._tiles.tile_range(night - days + 1, night)
        slices = np.stack([first, end], axis=1).reshape(-1)
        found = (np.minimum if self._least else np.maximum).reduceat(self._values, slices)[::2]
        known = (first < end) & (found != self._nothing)
        return found, known


class LastAggregate:
    def __init__(self, feature: WindowFeature, tiles: NightTiles) -> None:
        self._tiles = tiles
        self._at = tiles.column_values(feature.states[0])[0]
        self._values, known = tiles.column_values(feature.states[1])
        # For each tile the newest one up to it that has a value, as tiles are in order of days.
        self._newest = np.maximum.accumulate(np.where(known, np.arange(len(known)), -1))

    def night(self, night: int, days: int) -> tuple[Floats, NDArray[np.bool_]]:
        first, end = self._tiles.tile_range(night - days + 1, night)
        newest = self._newest[end - 1]
        return self._values[newest], (first < end) & (newest >= first)

    def moments(self, night: int, days: int) -> Ints:
        """Times of the values, microseconds."""
        _, end = self._tiles.tile_range(night - days + 1, night)
        return self._at[self._newest[end - 1]]


class _DistinctAggregate:
    def __init__(self, feature: WindowFeature, tiles: NightTiles) -> None:
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


MAKERS: dict[str, Any] = {
    "sum": SumAggregate,
    "count": _CountAggregate,
    "mean": _MeanAggregate,
    "min": _ExtremeAggregate,
    "max": _ExtremeAggregate,
    "last": LastAggregate,
    "distinct": _DistinctAggregate,
}


_EPOCH = date(1970, 1, 1)
_BATCH_ROWS = 1 << 16


@dataclass(frozen=True)
class TileMerger:
    """Makes the nights of a view from its tiles."""

    key: tuple[str, ...]
    features: tuple[WindowFeature, ...]
    nights: tuple[date, ...]
    days_active: int | None  # a key has a row if it has a tile in the last so many days; None: in any before
    asked: KeyHashesByNight | None = None  # the requested keys; None: all
    plan: MergePlan | None = None  # of a live view, whose nights also have states

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Batches of key columns, `as_of` and features (double) from batches of key columns, `day` and states."""
        held = [batch for batch in batches if batch.num_rows]
        for night, rows in self.each_night(pa.Table.from_batches(held)) if held else ():
            as_of = pa.array(np.full(rows.num_rows, (night - _EPOCH).days, np.int32)).cast(pa.date32())
            yield from rows.add_column(len(self.key), "as_of", as_of).combine_chunks().to_batches(_BATCH_ROWS)

    def each_night(self, table: pa.Table) -> Iterator[tuple[date, pa.Table]]:
        """Yield the nights that have a row, with key columns and features (double); `table` has at least one tile."""
        tiles = NightTiles(table.combine_chunks(), self.key)
        # Windows of different lengths share the aggregate of the same states.
        first_of = {feature.states: feature for feature in self.features}
        hashes = key_hashes(tiles.keys, self.key) if self.asked is not None else None
        made = {states: MAKERS[feature.aggregate](feature, tiles) for states, feature in first_of.items()}
        states = None if self.plan is None else NightStates(self.plan, self.features, made, tiles)
        for night in self.nights:
            number = (night - _EPOCH).days
            if self.asked is not None and hashes is not None:
                tiles.select_keys(np.flatnonzero(self.asked.is_requested_on(night, hashes)))
            since = None if self.days_active is None else number - self.days_active + 1
            first, end = tiles.tile_range(since, number)
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


class NightStates:
    """Computes the states of a live view's nights, see `Plan.base_columns`, from the aggregates by tile columns."""

    def __init__(
        self, plan: MergePlan, features: Sequence[WindowFeature], made: Mapping[tuple[str, ...], Any], tiles: NightTiles
    ) -> None:
        self._columns, self._tiles = plan.base_columns, tiles
        self._delayed = {feature.name: (feature, made[feature.states]) for feature in features}
        self._of_state = {state.name: _aggregate_of(state, tiles) for state in plan.day_states}

    def night(self, night: int, active: Ints) -> dict[str, pa.Array]:
        """The columns of a night, int64 or float64 with nulls, for the keys at the positions `active`."""
        columns = {}
        for column in self._columns:
            values, known = self._values(column, night)
            columns[column.name] = pa.array(values[active], mask=~known[active])
        return columns

    def _values(self, column: BaseColumn, night: int) -> tuple[Any, NDArray[np.bool_]]:
        if column.name == LAST_DAY:
            first, end = self._tiles.tile_range(None, night)
            return self._tiles.days[end - 1], first < end
        if column.feature:
            feature, maker = self._delayed[column.feature]
            values, known = maker.night(night + column.lag - feature.delay_days, feature.days)
            return values, known
        maker = self._of_state[column.state]
        if isinstance(maker, SumAggregate):
            sums = maker.sums(night, column.days)[column.word]
            return sums, np.ones(len(sums), bool)
        values, known = maker.night(night, column.days)
        if isinstance(maker, LastAggregate) and column.word == 0:
            return maker.moments(night, column.days), known
        return values, known


def _aggregate_of(state: PlanState, tiles: NightTiles) -> Any:
    return MAKERS[state.aggregate](WindowFeature(state.name, state.aggregate, 1, state.words), tiles)
