"""The tiles of a key as bytes: what an entry of a view's live layer holds.

An entry is a row of little-endian int64: a head, then of each day its number (days since 1970) and the tile, then of
each tile of minutes its number (since 1970) and the tile, both ascending. The head has a format, how many days and how
many tiles of minutes follow, and `Plan.id`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from forecache.errors import DamagedError
from forecache.windows.layout import Ints, Layout
from forecache.windows.plan import DAY_MINUTES, Plan

_WORD = "<i8"
_FORMAT, _FORMAT_MASK = 1, 0xF
_DAY_BITS, _DAY_MASK, _MINUTE_BITS, _MINUTE_MASK, _ID_BITS = 4, 0xFFF, 16, 0xFFFF, 32
MOST_DAYS = _DAY_MASK
"""Days that an entry can have."""


@dataclass(frozen=True)
class TileRows:
    """Tiles of several keys.

    Attributes:
        owner: Which key each is of, ascending.
        number: Which day, or which tile of minutes.
        words: int64 [m, width], see `Layout`.
    """

    owner: NDArray[np.intp]
    number: Ints
    words: Ints


class Tiles:
    """Reads and writes entries of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.day, self.minute = Layout(plan.day_states), Layout(plan.minute_states)
        self._known = (plan.id << _ID_BITS) | _FORMAT
        self._mask = ~((_MINUTE_MASK << _MINUTE_BITS) | (_DAY_MASK << _DAY_BITS)) & (2**64 - 1)

    def one(self, entry: bytes) -> tuple[Ints, Ints]:
        """The days and the tiles of minutes of an entry, int64 [m, 1 + width]: their numbers, then the tiles."""
        words = np.frombuffer(entry, _WORD)
        head = int(words[0]) & (2**64 - 1)
        if head & self._mask != self._known:
            raise self._other()
        end = 1 + ((head >> _DAY_BITS) & _DAY_MASK) * (1 + self.day.width)
        return words[1:end].reshape(-1, 1 + self.day.width), words[end:].reshape(-1, 1 + self.minute.width)

    def decode(self, entries: Sequence[bytes | None]) -> tuple[TileRows, TileRows]:
        """The days and the tiles of minutes of several entries; None has none.

        Raises:
            DamagedError: An entry is of another plan.
        """
        there = [place for place, entry in enumerate(entries) if entry is not None]
        if not there:
            return self._none
        words, starts, days, minutes = self._heads([entry for entry in entries if entry is not None])
        owners = np.array(there)
        day_rows = _rows(words, owners, starts + 1, days, 1 + self.day.width)
        return day_rows, _rows(words, owners, starts + 1 + days * (1 + self.day.width), minutes, 1 + self.minute.width)

    def since(self, entries: Sequence[bytes], first_day: int) -> list[bytes | None]:
        """Entries without the tiles of days before one, and of minutes of these; None where nothing is left.

        Args:
            first_day: In days since 1970.
        """
        if not entries:
            return []
        first_minute = first_day * DAY_MINUTES // max(1, self.plan.tile_minutes)
        kept: list[bytes | None] = list(entries)
        # Numbers ascend, so the first ones tell of most entries that nothing has to go.
        words, starts, days, minutes = self._heads(entries)
        oldest_day = words[starts + np.minimum(days, 1)]
        behind = starts + 1 + days * (1 + self.day.width)
        oldest_minute = words[np.where(minutes > 0, behind, starts)]
        has_old = ((days > 0) & (oldest_day < first_day)) | ((minutes > 0) & (oldest_minute < first_minute))
        places = np.flatnonzero(has_old | (days + minutes == 0)).tolist()
        day, minute = self.decode([entries[place] for place in places])
        day, minute = _from(day, first_day), _from(minute, first_minute)
        left = np.bincount(np.concatenate([day.owner, minute.owner]), minlength=len(places)).tolist()
        for place, entry, count in zip(places, self.encode(len(places), day, minute), left, strict=True):
            kept[place] = entry if count else None
        return kept

    def encode(self, num_keys: int, day: TileRows, minute: TileRows) -> list[bytes]:
        """The entry of each key, of tiles whose numbers ascend within a key."""
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
        """The words of entries one after the other, where each begins, and its days and tiles of minutes."""
        sizes = np.fromiter(map(len, entries), np.int64, len(entries)) >> 3
        words = np.frombuffer(b"".join(entries), _WORD)
        starts = np.cumsum(sizes) - sizes
        heads = words[starts].view(np.uint64)
        if ((heads & np.uint64(self._mask)) != np.uint64(self._known)).any():
            raise self._other()
        counts = heads.view(np.int64)
        return words, starts, (counts >> _DAY_BITS) & _DAY_MASK, (counts >> _MINUTE_BITS) & _MINUTE_MASK

    @cached_property
    def _none(self) -> tuple[TileRows, TileRows]:
        nobody = np.zeros(0, np.intp)
        day, minute = np.zeros((0, self.day.width), np.int64), np.zeros((0, self.minute.width), np.int64)
        return TileRows(nobody, nobody, day), TileRows(nobody, nobody, minute)

    def _other(self) -> DamagedError:
        return DamagedError(
            f"The live layer of the view {self.plan.view!r} holds tiles of another declaration.",
            remedy="Start the stream that keeps the view again: its live layer is then made anew.",
        )


def _from(rows: TileRows, first: int) -> TileRows:
    """Those whose number is not below one."""
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
