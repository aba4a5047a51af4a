"""The words of a tile: where each state is, what stands for no event, and how two tiles combine to one.

A tile is a row of int64: the wholes of sums, their parts, counts, minima, maxima, moments of last values, and last
values. Those that are numbers are the bits of a float64, NaN where there is none. The order in which tiles are combined
makes no difference to any bit.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from forecache.windows.plan import PlanState

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
NO_TIME = np.iinfo(np.int64).min
"""The moment of a value that there is not."""
PART_BITS, _PART_MASK = 32, (1 << 32) - 1
"""The part of a sum is in steps of 2**-32."""
NAN = np.array([np.nan]).view(np.int64)[0]
"""The bits of a number that there is not."""


class Layout:
    """Where the words of some states are in a tile.

    Attributes:
        width: Words of a tile.
        neutral: The tile of no event, int64 [width].
        places: By state its first word, and that of its second one; of those with one word, the same twice.
        ends: Where additive words end, then minima, maxima, moments and values.
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
        """Of tiles [..., width] those that hold what both hold."""
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
        """Of tiles [n, m, width], n tiles of m each combined, [n, width]; m is at least 1."""
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
    """Whether the value of a moment replaces another: it is later, or of the same moment and larger."""
    return (at > than_at) | ((at == than_at) & (value > than_value))


def to_double(whole: Ints, part: Ints) -> Floats:
    """The double of sums of wholes and of parts; the same for the same sums wherever it is computed."""
    whole, part = whole + (part >> PART_BITS), part & _PART_MASK
    return whole.astype(np.float64) + part.astype(np.float64) * 2.0**-PART_BITS
