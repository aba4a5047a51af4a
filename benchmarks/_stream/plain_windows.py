"""The features of the project `bench_scored` by plain counting, without any code of Forecache.

Of each key it keeps a count, a sum and a maximum for every day, and a count and a sum for every five minutes, in
dictionaries. Amounts are whole euros, so that every sum is exact, whatever its order.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

_DAY_US, _TILE_US, _TILES = 86_400_000_000, 5 * 60_000_000, 3
"""A window of 15 minutes is the five minutes of the event and the ten before them."""
FEATURES = (
    "amount", "hour",
    "payments_15m", "spent_15m", "payments_1d", "mean_1d", "payments_7d", "mean_7d", "largest_7d",
    "visits_15m", "visits_1d", "visits_7d", "taken_7d",
)  # fmt: skip


@dataclass(frozen=True)
class Payments:
    """Payments in their order, int64 [n] each; `at_us` is microseconds since 1970."""

    customer: np.ndarray
    terminal: np.ndarray
    at_us: np.ndarray
    amount: np.ndarray

    def __iter__(self) -> Iterator[tuple[int, int, int, int]]:
        columns = (self.customer, self.terminal, self.at_us, self.amount)
        return zip(*(column.tolist() for column in columns), strict=True)


@dataclass
class _Total:
    count: int = 0
    sum: int = 0
    largest: int = 0

    def add(self, amount: int) -> None:
        self.count, self.sum, self.largest = self.count + 1, self.sum + amount, max(self.largest, amount)


@dataclass
class _Key:
    """What is known of a customer, or of a terminal."""

    days: dict[int, _Total] = field(default_factory=lambda: defaultdict(_Total))
    tiles: dict[int, _Total] = field(default_factory=lambda: defaultdict(_Total))

    def last_days(self, at_us: int, days: int) -> list[_Total]:
        """Of the day of a moment, and of so many days with it."""
        today = at_us // _DAY_US
        return [self.days[day] for day in range(today - days + 1, today + 1) if day in self.days]

    def last_minutes(self, at_us: int) -> list[_Total]:
        tile = at_us // _TILE_US
        return [self.tiles[each] for each in range(tile - _TILES + 1, tile + 1) if each in self.tiles]


def features(landed: Payments, streamed: Payments) -> np.ndarray:
    """What each streamed payment sees of those before it, float32 [n, 13]; 0 where nothing is known.

    Args:
        landed: Those that a night has: they count in windows of days. What was not streamed is in no window of minutes.
        streamed: In the order of the stream.
    """
    customers: dict[int, _Key] = defaultdict(_Key)
    terminals: dict[int, _Key] = defaultdict(_Key)
    for customer, terminal, at_us, amount in landed:
        for key in (customers[customer], terminals[terminal]):
            key.days[at_us // _DAY_US].add(amount)
    rows = []
    for customer, terminal, at_us, amount in streamed:
        payer, shop = customers[customer], terminals[terminal]
        rows.append((amount, at_us % _DAY_US / 3_600_000_000, *_of_customer(payer, at_us), *_of_terminal(shop, at_us)))
        for key in (payer, shop):
            key.days[at_us // _DAY_US].add(amount)
            key.tiles[at_us // _TILE_US].add(amount)
    return np.array(rows, np.float64).reshape(-1, len(FEATURES)).astype(np.float32)


def _of_customer(key: _Key, at_us: int) -> tuple[float, ...]:
    minutes, today, week = key.last_minutes(at_us), key.last_days(at_us, 1), key.last_days(at_us, 7)
    largest = max((each.largest for each in week), default=0)
    return (_count(minutes), _sum(minutes), _count(today), _mean(today), _count(week), _mean(week), largest)


def _of_terminal(key: _Key, at_us: int) -> tuple[float, ...]:
    week = key.last_days(at_us, 7)
    return (_count(key.last_minutes(at_us)), _count(key.last_days(at_us, 1)), _count(week), _sum(week))


def _count(totals: Sequence[_Total]) -> int:
    return sum(each.count for each in totals)


def _sum(totals: Sequence[_Total]) -> int:
    return sum(each.sum for each in totals)


def _mean(totals: Sequence[_Total]) -> float:
    return _sum(totals) / _count(totals) if totals else 0.0
