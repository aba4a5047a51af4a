"""Which events were there before: the identities of those that were received in the last days."""

from collections.abc import Iterator, Sequence
from datetime import date, timedelta

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
        places = []
        for place, (identity, day) in enumerate(self._identities(events)):
            of_day = self._of(day)
            if any(identity in known for known in self._days.values()):
                continue
            of_day[identity] = None
            places.append(place)
        return places

    def remember(self, events: pa.Table) -> None:
        """Remember events of which none is a repeat, such as the rows of a stream's table."""
        if self._unique:
            for identity, day in self._identities(events):
                self._of(day)[identity] = None

    def _identities(self, events: pa.Table) -> Iterator[tuple[bytes, date]]:
        """Of each event its identity and the day on which it was received."""
        columns = [events[name].to_pylist() for name in self._unique]
        days = events[RECEIVED_AT].cast(pa.date32()).to_pylist()
        for values, day in zip(zip(*columns, strict=True), days, strict=True):
            yield xxhash.xxh3_128_digest(repr(values).encode()), day

    def _of(self, day: date) -> dict[bytes, None]:
        """What was received on a day; the first time, what was received too long before it is forgotten."""
        if day not in self._days:
            self._days = {each: known for each, known in self._days.items() if each >= day - self._keep}
            self._days[day] = {}
        return self._days[day]
