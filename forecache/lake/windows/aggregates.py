"""The aggregates of windows: tiles sorted by key and day, and for each aggregate a class that merges them.

Running sums are integers, so a difference of two is exactly the sum of the values between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from forecache.kit.windows.layout import Ints, to_double
from forecache.kit.windows.tile_columns import number_keys

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class WindowFeature:
    """A feature that is the aggregate of a window of days.

    Attributes:
        states: The tile columns that it is merged from; for a mean those of the sum, then the count.
        delay_days: The window ends so many days before the night.
    """

    name: str
    aggregate: str
    days: int
    states: tuple[str, ...]
    delay_days: int = 0


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
