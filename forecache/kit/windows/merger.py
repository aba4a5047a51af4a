"""Reads a live view: the features of keys at a moment, from last night's state (the base) and their tiles since then.

Requests, streams and recomputation all use this function.
"""

from bisect import bisect_right
from collections.abc import Sequence
from datetime import date
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from forecache.kit.windows.evaluate import FeatureEvaluator, Floats32, neutral_base
from forecache.kit.windows.plan import DAY_US, MergePlan
from forecache.kit.windows.tiles import Bools, Ints, TileCodec, TileLayout, TileRows

_EPOCH = date(1970, 1, 1)
_FEW = 10
"""Up to this number of keys, merging one by one is as fast as together."""


def merge_tiles(
    plan: MergePlan,
    base: Ints | None,
    known: Bools | None,
    tiles: Sequence[bytes | None] | None,
    as_of: date,
    at_us: "Ints | int",
) -> tuple[Floats32, Bools]:
    """Features of n keys with the events up to a moment of each, as a nightly run would compute them.

    Args:
        base: State of the as-of date, int64 [n, `len(plan.base_columns)`]: the bits of these columns. None: it has none
            of the keys.
        known: True for keys that the base has, bool [n]; None: all. The rows of other keys are ignored.
        tiles: Entries of the live layer, DamagedError if one is of another plan; None: it has none of the keys.
        at_us: Moments in microseconds since 1970, int64 [n], or one for all. A moment that is not after the as-of date
            counts as the first moment after it.

    Returns:
        Features, float32 [n, d], and whether a key has had an event in the plan's `days_active`, bool [n]. Features
        are NaN for a key without one, and at a moment more than the plan's `nights` days after the as-of date.
    """
    return merger_of(plan).merge(base, known, tiles, (as_of - _EPOCH).days, at_us)


class Merger:
    """Merges by a plan; everything that depends on the plan alone is computed once."""

    def __init__(self, plan: MergePlan) -> None:
        self.plan = plan
        self.tiles = TileCodec(plan)
        self.day, self.minute = self.tiles.day, self.tiles.minute
        self.by_lag = {lag: FeatureEvaluator(plan, self.day, self.minute, lag) for lag in range(1, plan.nights + 1)}
        self.neutral_base = neutral_base(plan)
        self.num_features = len(plan.features)

    def merge(
        self,
        base: Ints | None,
        known: Bools | None,
        tiles: Sequence[bytes | None] | None,
        as_of: int,
        at_us: "Ints | int",
    ) -> tuple[Floats32, Bools]:
        """As the function of this module; `as_of` in days since 1970."""
        n = len(base) if base is not None else len(tiles or ())
        base = self.full_base(base, known, n)
        some = None if tiles is None or tiles.count(None) == n else tiles
        if isinstance(at_us, int):
            at = max(at_us, (as_of + 1) * DAY_US)
            return self._merge_at_one_moment(base, some, at // DAY_US, at // self.plan.tile_us, as_of)
        rows = self.tiles.decode(some) if some is not None else None
        moments = np.maximum(at_us, (as_of + 1) * DAY_US)
        features, found = np.full((n, self.num_features), np.nan, np.float32), np.zeros(n, np.bool_)
        today = moments // DAY_US
        for day in np.unique(today).tolist():
            of_day = np.flatnonzero(today == day)
            its = rows and (_select_keys(rows[0], of_day, n), _select_keys(rows[1], of_day, n))
            tile = moments[of_day] // self.plan.tile_us
            features[of_day], found[of_day] = self._merge_at_lag(base[of_day], its, day, tile, as_of)
        return features, found

    def _merge_at_one_moment(
        self, base: Ints, tiles: Sequence[bytes | None] | None, today: int, tile: int, as_of: int
    ) -> tuple[Floats32, Bools]:
        evaluate = self.by_lag.get(today - as_of)
        if tiles is None or evaluate is None or len(tiles) > _FEW:
            rows = None if tiles is None else self.tiles.decode(tiles)
            return self._merge_at_lag(base, rows, today, tile, as_of)
        parts, is_new = np.empty((len(tiles), evaluate.width), np.int64), np.zeros(len(tiles), np.bool_)
        for place, entry in enumerate(tiles):
            if entry is None:
                parts[place] = evaluate.neutral
            else:
                is_new[place] = self._put_parts(parts[place], evaluate, entry, today, tile, as_of)
        return self.compute_features(evaluate, base, parts, is_new, today)

    def _put_parts(
        self, parts: Ints, evaluate: FeatureEvaluator, entry: bytes, today: int, tile: int, as_of: int
    ) -> bool:
        """Fill in the parts of one key; returns whether it has a tile in the days of `days_active`."""
        days, minutes = self.tiles.decode_one(entry)
        numbers = days[:, 0].tolist()
        end, place, width = bisect_right(numbers, today), 0, self.day.width
        for slot in evaluate.day_slots:
            first = bisect_right(numbers, today - slot)
            parts[place : place + width] = _combine_tiles(self.day, days[first:end, 1:])
            place += width
        active = self.plan.days_active
        is_new = bisect_right(numbers, as_of if active is None else max(as_of, today - active)) < end
        if evaluate.minute_slots:
            numbers, width = minutes[:, 0].tolist(), self.minute.width
            end = bisect_right(numbers, tile)
            for slot in evaluate.minute_slots:
                first = bisect_right(numbers, tile - slot)
                parts[place : place + width] = _combine_tiles(self.minute, minutes[first:end, 1:])
                place += width
        return is_new

    def full_base(self, base: Ints | None, known: Bools | None, n: int) -> Ints:
        """The base of n keys, neutral for a key that it does not have."""
        if base is None:
            return np.broadcast_to(self.neutral_base, (n, len(self.neutral_base)))
        if known is None or known.all():
            return base
        return np.where(known[:, None], base, self.neutral_base)

    def _merge_at_lag(
        self, base: Ints, rows: tuple[TileRows, TileRows] | None, today: int, tile: "Ints | int", as_of: int
    ) -> tuple[Floats32, Bools]:
        evaluate, parts, is_new = self.by_lag.get(today - as_of), None, None
        if evaluate is None:
            return np.full((len(base), self.num_features), np.nan, np.float32), np.zeros(len(base), np.bool_)
        if rows is not None:
            parts, is_new = self._parts(evaluate, len(base), *rows, today, tile, as_of)
        return self.compute_features(evaluate, base, parts, is_new, today)

    def compute_features(
        self, evaluate: FeatureEvaluator, base: Ints, parts: Ints | None, is_new: Bools | None, today: int
    ) -> tuple[Floats32, Bools]:
        """The features, NaN for keys without an event in `days_active`; `is_new`: a key has a tile there, bool [n]."""
        features, days = evaluate.features(base, parts), self.plan.days_active
        found = base[:, 0] > (today - days if days is not None else -(2**39))
        if is_new is not None:
            found |= is_new
        if not found.all():
            features[~found] = np.nan
        return features, found

    def _parts(
        self,
        evaluate: FeatureEvaluator,
        n: int,
        days: TileRows,
        minutes: TileRows,
        today: int,
        tile: "Ints | int",
        as_of: int,
    ) -> tuple[Ints, Bools]:
        """The parts to merge with the base, and for each key whether it has a tile in `days_active`, bool [n]."""
        ages = today - days.number
        lag, active = today - as_of, self.plan.days_active
        within = (ages >= 0) & (ages < lag)
        counted = within if active is None or active >= lag else within & (ages < active)
        is_new = np.zeros(n, np.bool_)
        is_new[days.owner[counted]] = True
        slots = [_combine_by_key(self.day, days, ages, within, n, slot) for slot in evaluate.day_slots]
        if evaluate.minute_slots:
            ages = (tile if isinstance(tile, int) else tile[minutes.owner]) - minutes.number
            within = ages >= 0
            slots += [_combine_by_key(self.minute, minutes, ages, within, n, slot) for slot in evaluate.minute_slots]
        return (slots[0] if len(slots) == 1 else np.concatenate(slots, axis=1)) if slots else np.zeros(
            (n, 0), int
        ), is_new


@lru_cache(maxsize=64)
def merger_of(plan: MergePlan) -> Merger:
    """The merger of a plan."""
    return Merger(plan)


def _combine_tiles(layout: TileLayout, tiles: Ints) -> Ints:
    """Combine tiles, int64 [m, width], into one."""
    if len(tiles) == 1:
        return tiles[0]
    return layout.combine_all(tiles[None])[0] if len(tiles) else layout.neutral


def _combine_by_key(layout: TileLayout, rows: TileRows, ages: Ints, within: Bools, n: int, length: int) -> Ints:
    """Combine each key's tiles whose age is below a length; int64 [n, width]."""
    chosen = np.flatnonzero(within & (ages < length))
    many = np.empty((n, length, layout.width), np.int64)
    many[:] = layout.neutral
    many[rows.owner[chosen], ages[chosen]] = rows.words[chosen]
    return many[:, 0] if length == 1 else layout.combine_all(many)


def _select_keys(rows: TileRows, keys: NDArray[np.intp], n: int) -> TileRows:
    """The tiles of some of the keys, which are numbered from 0."""
    if len(keys) == n:
        return rows
    places = np.full(n, -1, np.intp)
    places[keys] = np.arange(len(keys))
    chosen = places[rows.owner] >= 0
    return TileRows(places[rows.owner[chosen]], rows.number[chosen], rows.words[chosen])
