"""The states of a live view's nights, stored with the features, which a look-up merges with later events."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from forecache.kit.windows.layout import Ints
from forecache.kit.windows.plan import LAST_DAY, BaseColumn, MergePlan, PlanState
from forecache.lake.windows.aggregates import MAKERS, LastAggregate, NightTiles, SumAggregate, WindowFeature


class NightStates:
    """Computes the states of a live view's nights, see `Plan.base_columns`.

    Args:
        made: By tile columns, the aggregate that merges them.
    """

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
