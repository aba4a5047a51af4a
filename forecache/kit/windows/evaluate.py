"""Computes the features of a moment from last night's state and the tiles since then, for many keys at a time.

Sums are of integers, so the features are equal to the bit in whatever order events arrived, and equal those that a
nightly run would compute at that moment (see `forecache.lake.windows.tile_merge`).
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from forecache.kit.windows.plan import BaseColumn, MergePlan, PlanFeature, PlanState, base_columns_of
from forecache.kit.windows.tiles import NAN, NO_TIME, Floats, Ints, TileLayout, is_later, to_double

Floats32 = NDArray[np.float32]
_LONG_AGO = -(2**40)
_AT_ONCE = ("sum", "mean", "count", "min", "max", "last")


class FeatureEvaluator:
    """Computes the features of moments that lie `lag` days after the as-of date of the nightly state (the base).

    The parts, which are merged with the base, are rows of int64 [n, width]: for each of `day_slots` the combined tiles
    of this many days up to today, then for each of `minute_slots` those of this many tiles of minutes.
    """

    def __init__(self, plan: MergePlan, day: TileLayout, minute: TileLayout, lag: int) -> None:
        self._plan, self._lag, self._day, self._minute = plan, lag, day, minute
        live = [feature for feature in plan.features if not feature.delay_days]
        self.day_slots = sorted({min(each.days, lag) for each in live if each.days})
        self.minute_slots = sorted({each.minutes // plan.tile_minutes for each in live if each.minutes})
        self.width = len(self.day_slots) * day.width + len(self.minute_slots) * minute.width
        self._base_places = {column.name: place for place, column in enumerate(plan.base_columns)}
        self._states = {state.name: state for state in plan.day_states}
        by = {aggregate: [f for f in live if f.aggregate == aggregate] for aggregate in _AT_ONCE}
        self._num_sums, self._num_counts = len(by["sum"]), len(by["count"])
        sums = [(f, f.states[0]) for f in (*by["sum"], *by["mean"])]
        counts = [(f, f.states[0]) for f in by["count"]] + [(f, f.states[1]) for f in by["mean"]]
        self._num_doubles = len(sums)
        added = [(f, s, 0) for f, s in sums] + [(f, s, 1) for f, s in sums] + [(f, s, 0) for f, s in counts]
        self._added = _Cells(self, added)
        self._least = _Cells(self, [(f, f.states[0], 0) for f in by["min"]])
        self._most = _Cells(self, [(f, f.states[0], 0) for f in by["max"]])
        self._moment = _Cells(self, [(f, f.states[0], 0) for f in by["last"]])
        self._value = _Cells(self, [(f, f.states[0], 1) for f in by["last"]])
        delayed = [feature for feature in plan.features if feature.delay_days]
        self._delayed = np.array([self._base_places[f"state_{f.name}_lag{lag}"] for f in delayed], np.intp)
        made = [f for aggregate in _AT_ONCE for f in by[aggregate]] + delayed
        places = {feature.name: place for place, feature in enumerate(made)}
        order = [places[feature.name] for feature in plan.features]
        self._order = None if order == sorted(order) else np.array(order, np.intp)

    @cached_property
    def neutral(self) -> Ints:
        """The parts of a key without events, int64 [width]."""
        days = [self._day.neutral] * len(self.day_slots)
        return np.concatenate([np.zeros(0, np.int64), *days, *[self._minute.neutral] * len(self.minute_slots)])

    def features(self, base: Ints, parts: Ints | None) -> Floats32:
        """The features, float32 [n, d], of base, int64 [n, its columns], and parts, int64 [n, width] (None: there
        was no event); NaN if a window has no value."""
        values = []
        added = self._added.add_words(base, parts)
        n = self._num_doubles
        if n:
            doubles = to_double(added[:, :n], added[:, n : 2 * n])
            if self._num_sums == n:
                values.append(doubles)
            else:
                counts = added[:, 2 * n + self._num_counts :]
                means = doubles[:, self._num_sums :] / np.where(counts > 0, counts, np.nan)
                values += [doubles[:, : self._num_sums], means]
        if self._num_counts:
            values.append(added[:, 2 * n : 2 * n + self._num_counts].astype(np.float64))
        if len(self._least):
            values.append(self._least.numbers(base, parts, np.fmin))
        if len(self._most):
            values.append(self._most.numbers(base, parts, np.fmax))
        if len(self._value):
            values.append(self._last(base, parts))
        if len(self._delayed):
            values.append(base.take(self._delayed, axis=1).view(np.float64))
        found = values[0] if len(values) == 1 else np.concatenate(values, axis=1)
        return (found if self._order is None else found.take(self._order, axis=1)).astype(np.float32)

    def _last(self, base: Ints, parts: Ints | None) -> Floats:
        moments, values = self._moment.pair(base, parts), self._value.pair(base, parts)
        (base_at, at), (base_value, value) = moments, [each.view(np.float64) for each in values]
        return np.where(is_later(at, value, base_at, base_value), value, base_value)

    def part_place(self, feature: PlanFeature, state: str, word: int) -> int:
        """Column of the parts with a word of a feature's state."""
        if feature.minutes:
            slot = self.minute_slots.index(feature.minutes // self._plan.tile_minutes)
            start = len(self.day_slots) * self._day.width + slot * self._minute.width
            return start + self._minute.places[state][word]
        slot = self.day_slots.index(min(feature.days, self._lag))
        return slot * self._day.width + self._day.places[state][word]

    def base_place(self, feature: PlanFeature, state: str, word: int) -> int:
        """Column of the base with the same word; -1 if the window begins after the as-of date."""
        days = feature.days - self._lag
        return self._base_places[base_columns_of(self._states[state], days)[word].name] if days > 0 else -1


class _Cells:
    """Words of the same kind, of several features."""

    def __init__(self, owner: FeatureEvaluator, cells: list[tuple[PlanFeature, str, int]]) -> None:
        self._parts = np.array([owner.part_place(*cell) for cell in cells], np.intp)
        places = np.array([owner.base_place(*cell) for cell in cells], np.intp)
        self._base, self._lacks = np.maximum(places, 0), places < 0
        self._some_lack, self._none_has = bool(self._lacks.any()), bool(self._lacks.all())
        self._all_zero = np.where(self._lacks, 0, 1)
        nothing = [owner.neutral[place] for place in self._parts]
        self._nothing = np.array(nothing, np.int64)

    def __len__(self) -> int:
        return len(self._parts)

    def add_words(self, base: Ints, parts: Ints | None) -> Ints:
        """Sums of the words of base and parts, for words that are added."""
        if self._none_has:
            known = np.zeros((len(base), len(self._parts)), np.int64)
        else:
            known = base.take(self._base, axis=1)
            if self._some_lack:
                known *= self._all_zero
        if parts is not None:
            known += parts.take(self._parts, axis=1)
        return known

    def pair(self, base: Ints, parts: Ints | None) -> tuple[Ints, Ints]:
        """The words of the base, and those of the parts."""
        known = base.take(self._base, axis=1)
        if self._some_lack:
            known = np.where(self._lacks, self._nothing, known)
        merged = np.broadcast_to(self._nothing, known.shape) if parts is None else parts.take(self._parts, axis=1)
        return known, np.ascontiguousarray(merged)

    def numbers(self, base: Ints, parts: Ints | None, smaller: np.ufunc) -> Floats:
        """The smaller, or the larger, of the numbers of base and parts."""
        known, merged = self.pair(base, parts)
        found: Floats = smaller(known.view(np.float64), merged.view(np.float64))
        return found


def neutral_base(plan: MergePlan) -> Ints:
    """Base of a key that the nightly state does not have, int64 [columns of the base]."""
    aggregates = {feature.name: feature.aggregate for feature in plan.features}
    states = {state.name: state for state in plan.day_states}
    return np.array([_nothing_of(column, aggregates, states) for column in plan.base_columns], np.int64)


def _nothing_of(column: BaseColumn, aggregates: dict[str, str], states: dict[str, PlanState]) -> int:
    if column.feature:
        return 0 if aggregates[column.feature] in ("sum", "count", "distinct") else int(NAN)
    if not column.state:
        return _LONG_AGO
    if column.is_float:
        return int(NAN)
    return int(NO_TIME) if states[column.state].aggregate == "last" else 0
