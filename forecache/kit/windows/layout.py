"""Layout of a tile: the place of each state, the neutral tile, and the combination of two tiles into one.

A tile is a row of int64 words: the wholes of sums, their parts, counts, minima, maxima, moments of last values, and
last values. Minima, maxima and last values are the bits of a float64, NaN for none. The order in which tiles are
combined does not change a bit.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from forecache.kit.windows.plan import PlanState

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
    """Places of the words of some states in a tile.

    Attributes:
        width: Words of a tile.
        neutral: The tile without events, int64 [width].
        places: Positions of a state's first and second word, by its name; equal for a state of one word.
        ends: Ends of the additive words, the minima, the maxima, the moments and the values.
    """

    def __init__(self, states: Sequence[PlanState]) -> None:
        by = {kind: [s.name for s in states if s.aggregate == kind] for kind in ("sum", "count", "min", "max", "last")}
        starts, place = {}, 0
        for kind, times in (("sum", 2), ("count", 1), ("min", 1), ("max", 1), ("last", 2)):
            starts[kind], place = place, place + times * len(by[kind])
        self.width = place
        self.places: dict[str, tuple[int, int]] = {}
        for kind, names in by.items():
            second = len(names) if kind in ("sum", "last") else 0
            for number, name in enumerate(names):
                first = starts[kind] + number
                self.places[name] = (first, first + second)
        last = starts["last"] + len(by["last"])
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
