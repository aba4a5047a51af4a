"""Tiles of keys: the place of each state, the combination of two tiles, and their bytes as an entry of the live layer.

A tile is a row of int64 words: the wholes of sums, their parts, counts, minima, maxima, moments of last values, and
last values. Minima, maxima and last values are the bits of a float64, NaN for none. The order in which tiles are
combined does not change a bit.

An entry is a row of little-endian int64: a head, then for each day its number (days since 1970) and the tile, then for
each tile of minutes its number (since 1970) and the tile, both ascending. The head has a format, the numbers of days
and of tiles of minutes that follow, and the id of the plan.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from forecache.base.errors import DamagedError
from forecache.kit.windows.plan import DAY_MINUTES, MergePlan, PlanState

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
NO_TIME = np.iinfo(np.int64).min
"""The moment of a missing last value."""
PART_BITS, _PART_MASK = 32, (1 << 32) - 1
"""The part of a sum counts steps of 2**-32."""
NAN = np.array([np.nan]).view(np.int64)[0]
"""The bits of a missing number."""


class TileLayout:
    """Places of the words of some states in a tile."""

    def __init__(self, states: Sequence[PlanState]) -> None:
        by = {kind: [s.name for s in states if s.aggregate == kind] for kind in ("sum", "count", "min", "max", "last")}
        starts, place = {}, 0
        for kind, times in (("sum", 2), ("count", 1), ("min", 1), ("max", 1), ("last", 2)):
            starts[kind], place = place, place + times * len(by[kind])
        self.width = place  # words of a tile
        self.places: dict[str, tuple[int, int]] = {}  # of a state's first and second word; equal if it has one
        for kind, names in by.items():
            second = len(names) if kind in ("sum", "last") else 0
            for number, name in enumerate(names):
                first = starts[kind] + number
                self.places[name] = (first, first + second)
        last = starts["last"] + len(by["last"])
        # Of the additive words, the minima, the maxima, the moments and the values.
        self.ends = (starts["min"], starts["max"], starts["last"], last, self.width)
        self.neutral = np.zeros(self.width, np.int64)
        self.neutral[starts["min"] :] = NAN
        self.neutral[starts["last"] : last] = NO_TIME

    def combine(self, a: Ints, b: Ints) -> Ints:
        """Combine tiles pairwise, [..., width]."""
        added, least, most, at, _ = self.ends
        if added == self.width:
            return a + b
        both = np.empty(np.broadcast_shapes(a.shape, b.shape), np.int64)
        np.add(a[..., :added], b[..., :added], out=both[..., :added])
        numbers, x, y = both.view(np.float64), a.view(np.float64), b.view(np.float64)
        if least > added:
            np.fmin(x[..., added:least], y[..., added:least], out=numbers[..., added:least])
        if most > least:
            np.fmax(x[..., least:most], y[..., least:most], out=numbers[..., least:most])
        if at > most:
            later = is_later(b[..., most:at], y[..., at:], a[..., most:at], x[..., at:])
            both[..., most:at] = np.where(later, b[..., most:at], a[..., most:at])
            both[..., at:] = np.where(later, b[..., at:], a[..., at:])
        return both

    def combine_all(self, tiles: Ints) -> Ints:
        """Combine the m tiles of each row of [n, m, width] into [n, width]; m is at least 1."""
        added, least, most, at, _ = self.ends
        if added == self.width:
            return tiles.sum(axis=1)
        both = np.empty((len(tiles), self.width), np.int64)
        np.sum(tiles[:, :, :added], axis=1, out=both[:, :added])
        numbers, x = both.view(np.float64), tiles.view(np.float64)
        if least > added:
            np.fmin.reduce(x[:, :, added:least], axis=1, out=numbers[:, added:least])
        if most > least:
            np.fmax.reduce(x[:, :, least:most], axis=1, out=numbers[:, least:most])
        if at > most:
            moments = tiles[:, :, most:at]
            both[:, most:at] = moments.max(axis=1)
            newest = moments == both[:, None, most:at]
            np.fmax.reduce(np.where(newest, x[:, :, at:], np.nan), axis=1, out=numbers[:, at:])
        return both


def is_later(at: Ints, value: Floats, than_at: Ints, than_value: Floats) -> Bools:
    """True if a value replaces another one: its moment is later, or equal and the value is larger."""
    return (at > than_at) | ((at == than_at) & (value > than_value))


def to_double(whole: Ints, part: Ints) -> Floats:
    """The float64 of a sum from its wholes and parts; equal sums give equal bits wherever it is computed."""
    whole, part = whole + (part >> PART_BITS), part & _PART_MASK
    return whole.astype(np.float64) + part.astype(np.float64) * 2.0**-PART_BITS


_WORD = "<i8"
_FORMAT, _FORMAT_MASK = 1, 0xF
_DAY_BITS, _DAY_MASK, _MINUTE_BITS, _MINUTE_MASK, _ID_BITS = 4, 0xFFF, 16, 0xFFFF, 32
MOST_DAYS = _DAY_MASK
"""Most days that an entry can have."""


@dataclass(frozen=True)
class TileRows:
    """Tiles of several keys."""

    owner: NDArray[np.intp]  # number of each tile's key, ascending
    number: Ints  # of the day, or of the tile of minutes
    words: Ints  # int64 [m, width]


class TileCodec:
    """Encodes and decodes the entries of a plan."""

    def __init__(self, plan: MergePlan) -> None:
        self.plan = plan
        self.day, self.minute = TileLayout(plan.day_states), TileLayout(plan.minute_states)
        self._known = (plan.id << _ID_BITS) | _FORMAT
        self._mask = ~((_MINUTE_MASK << _MINUTE_BITS) | (_DAY_MASK << _DAY_BITS)) & (2**64 - 1)

    def decode_one(self, entry: bytes) -> tuple[Ints, Ints]:
        """The days and the tiles of minutes of an entry, int64 [m, 1 + width]: their numbers, then the tiles."""
        words = np.frombuffer(entry, _WORD)
        head = int(words[0]) & (2**64 - 1)
        if head & self._mask != self._known:
            raise self._other_plan_error()
        end = 1 + ((head >> _DAY_BITS) & _DAY_MASK) * (1 + self.day.width)
        return words[1:end].reshape(-1, 1 + self.day.width), words[end:].reshape(-1, 1 + self.minute.width)

    def decode(self, entries: Sequence[bytes | None]) -> tuple[TileRows, TileRows]:
        """The days and the tiles of minutes of entries (None has none); DamagedError if one is of another plan."""
        there = [place for place, entry in enumerate(entries) if entry is not None]
        if not there:
            return self._no_rows
        words, starts, days, minutes = self._heads([entry for entry in entries if entry is not None])
        owners = np.array(there)
        day_rows = _rows(words, owners, starts + 1, days, 1 + self.day.width)
        return day_rows, _rows(words, owners, starts + 1 + days * (1 + self.day.width), minutes, 1 + self.minute.width)

    def drop_before(self, entries: Sequence[bytes], first_day: int) -> list[bytes | None]:
        """Drop the tiles of days before `first_day` (since 1970) and of their minutes; None for an emptied entry."""
        if not entries:
            return []
        first_minute = first_day * DAY_MINUTES // max(1, self.plan.tile_minutes)
        kept: list[bytes | None] = list(entries)
        # Numbers ascend, so the first ones show for most entries that nothing has to be dropped.
        words, starts, days, minutes = self._heads(entries)
        oldest_day = words[starts + np.minimum(days, 1)]
        behind = starts + 1 + days * (1 + self.day.width)
        oldest_minute = words[np.where(minutes > 0, behind, starts)]
        has_old = ((days > 0) & (oldest_day < first_day)) | ((minutes > 0) & (oldest_minute < first_minute))
        places = np.flatnonzero(has_old | (days + minutes == 0)).tolist()
        day, minute = self.decode([entries[place] for place in places])
        day, minute = _rows_from(day, first_day), _rows_from(minute, first_minute)
        left = np.bincount(np.concatenate([day.owner, minute.owner]), minlength=len(places)).tolist()
        for place, entry, count in zip(places, self.encode(len(places), day, minute), left, strict=True):
            kept[place] = entry if count else None
        return kept

    def encode(self, num_keys: int, day: TileRows, minute: TileRows) -> list[bytes]:
        """Encode the entry of each key from tiles whose numbers ascend within a key."""
        days, minutes = np.bincount(day.owner, minlength=num_keys), np.bincount(minute.owner, minlength=num_keys)
        sizes = 1 + days * (1 + self.day.width) + minutes * (1 + self.minute.width)
        ends = np.cumsum(sizes)
        words = np.empty(int(ends[-1]) if num_keys else 0, _WORD)
        starts = ends - sizes
        heads = (minutes.astype(np.uint64) << np.uint64(_MINUTE_BITS)) | (
            days.astype(np.uint64) << np.uint64(_DAY_BITS)
        )
        words[starts] = (heads | np.uint64(self._known)).view(np.int64)
        _fill(words, starts + 1, days, day)
        _fill(words, starts + 1 + days * (1 + self.day.width), minutes, minute)
        content, bounds = words.tobytes(), [0, *(ends * 8).tolist()]
        return [content[start:end] for start, end in zip(bounds, bounds[1:], strict=False)]

    def _heads(self, entries: Sequence[bytes]) -> tuple[Ints, Ints, Ints, Ints]:
        """The words of all entries in one array, and of each entry its start and its numbers of days and minutes."""
        sizes = np.fromiter(map(len, entries), np.int64, len(entries)) >> 3
        words = np.frombuffer(b"".join(entries), _WORD)
        starts = np.cumsum(sizes) - sizes
        heads = words[starts].view(np.uint64)
        if ((heads & np.uint64(self._mask)) != np.uint64(self._known)).any():
            raise self._other_plan_error()
        counts = heads.view(np.int64)
        return words, starts, (counts >> _DAY_BITS) & _DAY_MASK, (counts >> _MINUTE_BITS) & _MINUTE_MASK

    @cached_property
    def _no_rows(self) -> tuple[TileRows, TileRows]:
        nobody = np.zeros(0, np.intp)
        day, minute = np.zeros((0, self.day.width), np.int64), np.zeros((0, self.minute.width), np.int64)
        return TileRows(nobody, nobody, day), TileRows(nobody, nobody, minute)

    def _other_plan_error(self) -> DamagedError:
        return DamagedError(
            f"The live layer of the view {self.plan.view!r} holds tiles of another declaration.",
            remedy="Start the stream that keeps the view again: its live layer is then made anew.",
        )


def _rows_from(rows: TileRows, first: int) -> TileRows:
    """The tiles whose number is at least `first`."""
    kept = rows.number >= first
    return TileRows(rows.owner[kept], rows.number[kept], rows.words[kept])


def _rows(words: Ints, owners: Ints, starts: Ints, counts: Ints, size: int) -> TileRows:
    which = np.repeat(np.arange(len(owners)), counts)
    within = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = words[(starts[which] + within * size)[:, None] + np.arange(size)]
    return TileRows(owners[which], rows[:, 0], rows[:, 1:])


def _fill(words: Ints, starts: Ints, counts: Ints, rows: TileRows) -> None:
    size = 1 + rows.words.shape[1]
    within = np.arange(len(rows.owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    at = starts[rows.owner] + within * size
    words[at] = rows.number
    if size > 1:
        words[at[:, None] + np.arange(1, size)] = rows.words
