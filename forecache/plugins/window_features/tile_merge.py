"""Merges tiles to the features of nights, in numpy.

The windows of one night are totals by key, to which days are added from the newest on. Those of several nights are
differences of running sums, or minima of slices. Sums are of integers, so both are equal to the bit. Tasks run it on
all tiles of some keys at a time.
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
from forecache.kit.windows.states import BOUNDS, NO_BOUND, fill_nulls, number_keys
from forecache.kit.windows.tiles import Ints, to_double
from forecache.plugins.window_features.key_hashes import KeyHashesByNight, key_hashes

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
        values, known = column_values(self.table[name])
        return values[self.order], known[self.order]

    def running_sums(self, name: str) -> Ints:
        """Sums of a column before each tile and after the last; differences are right even if sums overflow."""
        if name not in self._running:
            values = self.column_values(name)[0].astype(np.int64)
            self._running[name] = np.concatenate([np.zeros(1, np.int64), np.cumsum(values)])
        return self._running[name]


def column_values(column: pa.ChunkedArray) -> tuple[Any, NDArray[np.bool_]]:
    """The values of a column, with zeros for nulls, and the mask of those that are not null."""
    values = column.combine_chunks()
    return fill_nulls(values, 0), np.asarray(values.is_valid())


Values = tuple[Floats, NDArray[np.bool_]]
"""The value of a feature for each key, and the mask of those that have one."""


def _sum_values(sums: Sequence[Ints]) -> Values:
    return to_double(sums[0], sums[1]), np.ones(len(sums[0]), bool)


def _count_values(sums: Sequence[Ints]) -> Values:
    return sums[0].astype(np.float64), np.ones(len(sums[0]), bool)


def _mean_values(sums: Sequence[Ints]) -> Values:
    known = sums[2] > 0
    return to_double(sums[0], sums[1]) / np.where(known, sums[2], 1), known


_OF_SUMS = {"sum": _sum_values, "count": _count_values, "mean": _mean_values}


class WindowTotals:
    """Features of windows that end on the same day, of each key by its number: days are added from the newest on."""

    def __init__(self, features: Sequence[WindowFeature], num_keys: int) -> None:
        kinds = {feature.states: feature.aggregate for feature in features}
        self._sums = {
            name: np.zeros(num_keys, np.int64) for states, kind in kinds.items() if kind in _OF_SUMS for name in states
        }
        self._bounds = {
            states[0]: (BOUNDS[kind], np.full(num_keys, NO_BOUND[kind]), NO_BOUND[kind])
            for states, kind in kinds.items()
            if kind in BOUNDS
        }
        self._last = {
            states[1]: (np.zeros(num_keys), np.zeros(num_keys, bool))
            for states, kind in kinds.items()
            if kind == "last"
        }
        self.columns = [*self._sums, *self._bounds, *self._last]

    def add_day(self, codes: Ints, tiles: Mapping[str, Values]) -> None:
        """Add the tiles of a day: the number of each one's key, and its columns."""
        for name, total in self._sums.items():
            np.add.at(total, codes, tiles[name][0].astype(np.int64, copy=False))
        for name, (smaller, found, nothing) in self._bounds.items():
            values, known = tiles[name]
            smaller.at(found, codes, np.where(known, values, nothing))
        for name, (found, has_value) in self._last.items():
            values, known = tiles[name]
            newer = known & ~has_value[codes]
            found[codes[newer]] = values[newer]
            has_value[codes[newer]] = True

    def values(self, feature: WindowFeature) -> Values:
        """A feature, of the days that were added."""
        if feature.aggregate in _OF_SUMS:
            return _OF_SUMS[feature.aggregate]([self._sums[name] for name in feature.states])
        if feature.aggregate == "last":
            found, has_value = self._last[feature.states[1]]
            return found.copy(), has_value.copy()
        _, found, nothing = self._bounds[feature.states[0]]
        return found.copy(), found != nothing


class SumAggregate:
    def __init__(self, feature: WindowFeature, tiles: NightTiles) -> None:
        self._tiles, self._running = tiles, [tiles.running_sums(name) for name in feature.states]
        self._of_sums = _OF_SUMS[feature.aggregate]

    def night(self, night: int, days: int) -> tuple[Floats, NDArray[np.bool_]]:
        return self._of_sums(self.sums(night, days))

    def sums(self, night: int, days: int) -> list[Ints]:
        """The sum of each tile column over the window, for each key."""
        first, end = self._tiles.tile_range(night - days + 1, night)
        return [running[end] - running[first] for running in self._running]


class _ExtremeAggregate:
    def __init__(self, feature: WindowFeature, tiles: NightTiles) -> None:
        self._tiles = tiles
        self._smaller, self._nothing = BOUNDS[feature.aggregate], NO_BOUND[feature.aggregate]
        values, known = tiles.column_values(feature.states[0])
        self._values = np.append(np.where(known, values, self._nothing), self._nothing)

    def night(self, night: int, days: int) -> tuple[Floats, NDArray[np.bool_]]:
        first, end = self._tiles.tile_range(night - days + 1, night)
        slices = np.stack([first, end], axis=1).reshape(-1)
        found = self._smaller.reduceat(self._values, slices)[::2]
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
    "count": SumAggregate,
    "mean": SumAggregate,
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
        if len(self.nights) == 1 and self.plan is None and all(each.aggregate != "distinct" for each in self.features):
            yield from self._one_night(table, self.nights[0])
            return
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

    def _one_night(self, table: pa.Table, night: date) -> Iterator[tuple[date, pa.Table]]:
        number = (night - _EPOCH).days
        codes, keys = number_keys(table, self.key)
        days = table["day"].cast(pa.int32()).to_numpy().astype(np.int64)
        if (days[1:] < days[:-1]).any():
            order = np.argsort(days, kind="stable")
            table, codes, days = table.take(pa.array(order)), codes[order], days[order]
        since = None if self.days_active is None else number - self.days_active + 1
        active = np.zeros(keys.num_rows, bool)
        active[codes[(days <= number) & (days >= (days[0] if since is None else since))]] = True
        if self.asked is not None:
            active &= self.asked.is_requested_on(night, key_hashes(keys, self.key))
        chosen, found = np.flatnonzero(active), dict[str, pa.Array]()
        for delay in {feature.delay_days for feature in self.features} if len(chosen) else ():
            features = [feature for feature in self.features if feature.delay_days == delay]
            for feature, (values, known) in _window_values(features, number - delay, table, codes, days, keys.num_rows):
                found[feature.name] = pa.array(values[chosen], mask=~known[chosen])
        if found:
            columns = {name: keys[name].take(pa.array(chosen)) for name in self.key}
            yield night, pa.table({**columns, **{feature.name: found[feature.name] for feature in self.features}})


def _window_values(
    features: Sequence[WindowFeature], last_day: int, table: pa.Table, codes: Ints, days: Ints, num_keys: int
) -> Iterator[tuple[WindowFeature, Values]]:
    """Yield features of windows that end on a day, from tiles in the order of their days."""
    totals = WindowTotals(features, num_keys)
    columns = {name: column_values(table[name]) for name in totals.columns}
    waiting, end = sorted(features, key=lambda feature: feature.days), int(np.searchsorted(days, last_day + 1))
    while waiting:
        newest = int(days[end - 1]) if end else last_day - waiting[-1].days
        while waiting and newest <= last_day - waiting[0].days:
            feature = waiting.pop(0)
            yield feature, totals.values(feature)
        if waiting:
            start = int(np.searchsorted(days, newest))
            some = slice(start, end)
            totals.add_day(
                codes[some], {name: (values[some], known[some]) for name, (values, known) in columns.items()}
            )
            end = start


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
