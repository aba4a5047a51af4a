"""Makes tiles of events, adds them to the tiles of keys one after the other, and computes the features of each event.

Events of different keys are independent, so the first events of all keys are processed together, then the second ones,
and so on. Any division of the same events into batches gives the same features and the same tiles.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from forecache.kit.windows.evaluate import FeatureEvaluator, Floats32
from forecache.kit.windows.merger import Merger, merger_of
from forecache.kit.windows.plan import DAY_US, MergePlan, PlanState
from forecache.kit.windows.states import MeasureState, is_too_large, state_words
from forecache.kit.windows.tiles import MOST_DAYS, Bools, Ints, TileLayout, TileRows

_EPOCH = date(1970, 1, 1)
_NEVER = np.iinfo(np.int64).min
_MOST_WORDS = 1 << 23
"""Words of tiles of minutes in memory at a time: 64 MiB."""


@dataclass(frozen=True)
class FoldResult:
    """Features of some events, and the tiles after them."""

    features: Floats32  # of each event, float32 [n, d]
    found: Bools  # whether its key had had an event in `days_active`, bool [n]
    entries: list[bytes]  # the tiles of each key after all events


def fold(
    plan: MergePlan,
    codes: Ints,
    at_us: Ints,
    states: "EventStates",
    entries: Sequence[bytes | None],
    base: Ints | None,
    known: Bools | None,
    as_of: date,
    *,
    see: Literal["before", "after", "nothing"] = "before",
    counts: Bools | None = None,
) -> FoldResult:
    """Add n events of k keys to the keys' tiles, in the order given; DamagedError if an entry is of another plan.

    Args:
        codes: Number of each event's key, int64 [n], from 0 to k - 1.
        at_us: Event times in microseconds since 1970, int64 [n].
        entries: The tiles of each key, k of them; None: it has none.
        base, known, as_of: Of the k keys; as for merging, see `Merger`.
        see: "before": features of an event leave it out; "after": they include it; "nothing": all are NaN.
        counts: False for rows that get features and are no events, such as requests, bool [n]; None: all are events.
    """
    merger, num_keys = merger_of(plan), len(entries)
    base = merger.full_base(base, known, num_keys)
    counts = np.ones(len(codes), np.bool_) if counts is None else counts
    features = np.full((len(codes), merger.num_features), np.nan, np.float32)
    found = np.zeros(len(codes), np.bool_)
    after: list[bytes] = []
    at_once = max(1, _MOST_WORDS // max(1, plan.num_minute_tiles * merger.minute.width))
    for first in range(0, num_keys, at_once):
        some = slice(first, min(first + at_once, num_keys))
        chosen = np.flatnonzero((codes >= some.start) & (codes < some.stop))
        held = _KeyTiles(merger, entries[some], base[some], (as_of - _EPOCH).days, at_us[chosen])
        its = (codes[chosen] - first, at_us[chosen], states.take(chosen), counts[chosen])
        if see == "nothing":
            held.add_events(*its)
        else:
            features[chosen], found[chosen] = held.fold_events(*its, see == "after")
        after += held.entries()
    return FoldResult(features, found, after)


@dataclass(frozen=True)
class EventStates:
    """Each event as a tile of its own, in words: of a day int64 [n, width], and of minutes."""

    day: Ints
    minute: Ints

    def take(self, chosen: NDArray[np.intp]) -> "EventStates":
        return EventStates(self.day[chosen], self.minute[chosen])


class _KeyTiles:
    """The tiles of some keys while events are added.

    Tiles of days are [k, days, width], those of minutes [k, m, width] for the m tiles of the longest window: a ring in
    which tile number i is at i modulo m, and is dropped when a tile arrives that is m or more later.
    """

    def __init__(self, merger: Merger, entries: Sequence[bytes | None], base: Ints, as_of: int, at_us: Ints) -> None:
        self._merger, self._base, self._as_of, num_keys = merger, base, as_of, len(entries)
        plan = merger.plan
        day, minute = merger.tiles.decode(entries)
        # Older tiles are never read, even after a rollback by `nights`.
        self._first_day = as_of - plan.nights + 1
        days = np.unique(np.concatenate([day.number, at_us // DAY_US]))
        self._days = days[days >= self._first_day][:MOST_DAYS]
        self._day = np.empty((num_keys, len(self._days), merger.day.width), np.int64)
        self._day[:] = merger.day.neutral
        self._has_day = np.zeros((num_keys, len(self._days)), np.bool_)
        kept = np.isin(day.number, self._days)
        at = day.owner[kept], np.searchsorted(self._days, day.number[kept])
        self._day[at], self._has_day[at] = day.words[kept], True
        self._size = plan.num_minute_tiles
        self._minute = np.empty((num_keys, self._size, merger.minute.width), np.int64)
        self._minute[:] = merger.minute.neutral
        self._number = np.full((num_keys, self._size), _NEVER)
        if self._size:
            places = minute.owner, minute.number % self._size
            self._minute[places], self._number[places] = minute.words, minute.number

    def fold_events(
        self, codes: Ints, at_us: Ints, states: EventStates, counts: Bools, after: bool
    ) -> tuple[Floats32, Bools]:
        features = np.empty((len(codes), self._merger.num_features), np.float32)
        found = np.empty(len(codes), np.bool_)
        for turn in _occurrence_groups(codes):
            keys, moments, events = codes[turn], at_us[turn], turn[counts[turn]]
            if after:
                self._add(codes[events], at_us[events], states.take(events))
            features[turn], found[turn] = self._features_at(keys, moments)
            if not after:
                self._add(codes[events], at_us[events], states.take(events))
        return features, found

    def add_events(self, codes: Ints, at_us: Ints, states: EventStates, counts: Bools) -> None:
        for turn in _occurrence_groups(codes):
            events = turn[counts[turn]]
            self._add(codes[events], at_us[events], states.take(events))

    def _add(self, keys: Ints, at_us: Ints, states: EventStates) -> None:
        """Add one event of each of some keys."""
        place = np.searchsorted(self._days, at_us // DAY_US)
        known = np.flatnonzero((place < len(self._days)) & (at_us // DAY_US >= self._first_day))
        at = keys[known], place[known]
        self._day[at] = self._merger.day.combine(self._day[at], states.day[known])
        self._has_day[at] = True
        if not self._size:
            return
        number = at_us // self._merger.plan.tile_us
        newest = np.maximum(self._number[keys].max(axis=1), number)
        kept = np.flatnonzero(number > newest - self._size)
        keys, number, newest = keys[kept], number[kept], newest[kept]
        gone = self._number[keys] <= (newest - self._size)[:, None]
        row, column = np.nonzero(gone)
        self._minute[keys[row], column], self._number[keys[row], column] = self._merger.minute.neutral, _NEVER
        at = keys, number % self._size
        self._minute[at] = self._merger.minute.combine(self._minute[at], states.minute[kept])
        self._number[at] = number

    def _features_at(self, keys: Ints, at_us: Ints) -> tuple[Floats32, Bools]:
        moments = np.maximum(at_us, (self._as_of + 1) * DAY_US)
        today = moments // DAY_US
        features = np.full((len(keys), self._merger.num_features), np.nan, np.float32)
        found = np.zeros(len(keys), np.bool_)
        for day in np.unique(today).tolist():
            evaluate = self._merger.by_lag.get(day - self._as_of)
            if evaluate is None:
                continue
            chosen = np.flatnonzero(today == day)
            its = keys[chosen]
            parts, is_new = self._parts(evaluate, its, moments[chosen], day)
            features[chosen], found[chosen] = self._merger.compute_features(
                evaluate, self._base[its], parts, is_new, day
            )
        return features, found

    def _parts(self, evaluate: FeatureEvaluator, keys: Ints, moments: Ints, today: int) -> tuple[Ints, Bools]:
        merger, active = self._merger, self._merger.plan.days_active
        first = self._as_of if active is None else max(self._as_of, today - active)
        counted = (self._days > first) & (self._days <= today)
        is_new: Bools = np.any(self._has_day[keys][:, counted], axis=1)
        slots = []
        for slot in evaluate.day_slots:
            within = (self._days > today - slot) & (self._days <= today)
            slots.append(_combine_each(merger.day, self._day[keys][:, within]))
        if evaluate.minute_slots:
            ages = (moments // merger.plan.tile_us)[:, None] - self._number[keys]
            for slot in evaluate.minute_slots:
                within = (ages >= 0) & (ages < slot) & (self._number[keys] != _NEVER)
                tiles = np.where(within[:, :, None], self._minute[keys], merger.minute.neutral)
                slots.append(merger.minute.combine_all(tiles))
        return np.concatenate(slots, axis=1) if slots else np.zeros((len(keys), 0), np.int64), is_new

    def entries(self) -> list[bytes]:
        """The tiles of each key."""
        owner, place = np.nonzero(self._has_day)
        day = TileRows(owner, self._days[place], self._day[owner, place])
        owner, place = np.nonzero(self._number != _NEVER)
        number = self._number[owner, place]
        order = np.lexsort((number, owner))
        owner, place, number = owner[order], place[order], number[order]
        minute = TileRows(owner, number, self._minute[owner, place])
        return self._merger.tiles.encode(len(self._has_day), day, minute)


def _combine_each(layout: TileLayout, tiles: Ints) -> Ints:
    """Combine the m tiles of each row of [n, m, width]; m may be 0."""
    if not tiles.shape[1]:
        return np.broadcast_to(layout.neutral, (len(tiles), layout.width))
    return tiles[:, 0] if tiles.shape[1] == 1 else layout.combine_all(tiles)


def _occurrence_groups(codes: Ints) -> list[NDArray[np.intp]]:
    """Positions of the first event of each key, then of the second ones, and so on."""
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)])
    sizes = np.diff(np.append(starts, len(ordered)))
    rank = np.arange(len(ordered)) - np.repeat(starts, sizes)
    by_rank = order[np.argsort(rank, kind="stable")]
    return np.split(by_rank, np.cumsum(np.bincount(rank))[:-1]) if len(codes) else []


def event_states(plan: MergePlan, events: pa.Table) -> EventStates:
    """Make a tile of each event, with the columns of the plan's `reads`; a condition on null is not met.

    ValueError if a value is too large for a sum; see `cannot_sum`.
    """
    merger = merger_of(plan)
    return EventStates(
        _words(merger.day, plan, plan.day_states, events), _words(merger.minute, plan, plan.minute_states, events)
    )


def cannot_sum(plan: MergePlan, events: pa.Table) -> Bools:
    """True for events with a value of 2**44 or more, which no exact sum holds, bool [n]: the view ignores them."""
    wrong = np.zeros(events.num_rows, np.bool_)
    for state in (*plan.day_states, *plan.minute_states):
        if state.aggregate == "sum":
            wrong |= is_too_large(events, state_of(state))
    return wrong


def state_of(state: PlanState) -> MeasureState:
    """The state as tables of tiles have it."""
    return MeasureState(state.aggregate, state.words, state.column, state.where)


def _words(layout: TileLayout, plan: MergePlan, states: Sequence[PlanState], events: pa.Table) -> Ints:
    words = np.empty((events.num_rows, layout.width), np.int64)
    for state in states:
        for place, column in zip(
            layout.places[state.name], state_words(events, state_of(state), plan.time), strict=False
        ):
            words[:, place] = column
    return words
