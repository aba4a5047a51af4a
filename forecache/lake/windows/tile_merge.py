"""Merges tiles to the features of nights, in numpy: windows are differences of running sums, or minima of slices.

Spark's Python tasks run it on all tiles of some keys at a time.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from forecache.kit.windows.layout import Ints
from forecache.kit.windows.plan import LAST_DAY, BaseColumn, MergePlan, PlanState
from forecache.lake.windows.aggregates import MAKERS, LastAggregate, NightTiles, SumAggregate, WindowFeature
from forecache.lake.windows.key_hashes import KeyHashesByNight, key_hashes

_EPOCH = date(1970, 1, 1)
_BATCH_ROWS = 1 << 16


@dataclass(frozen=True)
class TileMerger:
    """Makes the nights of a view from its tiles.

    Attributes:
        days_active: A key has a row on a night if it has a tile in the last so many days; None: in any before.
        asked: The keys that are requested of each night; None: all.
        plan: Plan of a live view, whose nights also have states; None: features only.
    """

    key: tuple[str, ...]
    features: tuple[WindowFeature, ...]
    nights: tuple[date, ...]
    days_active: int | None
    asked: KeyHashesByNight | None = None
    plan: MergePlan | None = None

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
