"""Which events were there before: the identities of those that were received in the last days."""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import pyarrow as pa
import xxhash

from forecache.stream.record import RECEIVED_AT


class Repeats:
    """Remembers 16 bytes of each event, about 100 bytes of memory, for `keep_days` days after the day it was received.

    Args:
        unique: Columns that identify an event; none: no event is a repeat.
    """

    def __init__(self, unique: Sequence[str], keep_days: int) -> None:
        self._unique, self._keep = tuple(unique), timedelta(days=keep_days)
        # Not sets: the collector of cycles goes through large ones again and again, and through no such dictionary.
        self._days: dict[date, dict[bytes, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._days.values()))

    def new(self, events: pa.Table) -> list[int]:
        """The places of the events that were not there before, and remember them."""
        if not self._unique:
            return list(range(events.num_rows))
        identities = _identities([events[name].to_pylist() for name in self._unique])
        days = events[RECEIVED_AT].cast(pa.date32()).to_pylist()
        places = []
        for place, (identity, day) in enumerate(zip(identities, days, strict=True)):
            if any(identity in known for known in self._days.values()):
                continue
            if day not in self._days:
                self._forget(day)
            self._days.setdefault(day, {})[identity] = None
            places.append(place)
        return places

    def _forget(self, today: date) -> None:
        for day in [day for day in self._days if day < today - self._keep]:
            del self._days[day]


def _identities(columns: Sequence[Sequence[Any]]) -> list[bytes]:
    return [xxhash.xxh3_128_digest(repr(values).encode()) for values in zip(*columns, strict=True)]
