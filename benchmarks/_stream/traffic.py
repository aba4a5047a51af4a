"""Card payments that follow from a seed, so that what any answer has to be can be computed without keeping a copy."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

HOT_SHARE = 0.9
"""Of all payments, those of the hot customers."""
_BLOCK = 1 << 16
_MOST_AMOUNT = 500


@dataclass(frozen=True)
class Traffic:
    """So many payments at a constant rate.

    Attributes:
        begin_us: When the first one is due, microseconds since 1970.
        first: Number of the first one; a payment's number is its `transaction_id`.
        customers: Payments are those of customers 0 to `customers - 1`.
        hot: Of whom the first so many have nine of ten payments; 0: all are alike.
    """

    begin_us: int
    rate: float
    count: int
    first: int = 0
    customers: int = 100_000
    hot: int = 0
    terminals: int = 10_000
    seed: int = 0

    @property
    def seconds(self) -> float:
        return self.count / self.rate

    @property
    def numbers(self) -> np.ndarray:
        """int64 [count]."""
        return np.arange(self.first, self.first + self.count)

    def due_us(self, numbers: np.ndarray) -> np.ndarray:
        """When these payments are due, which is their time, int64 [n]: microseconds since 1970."""
        return self.begin_us + ((numbers - self.first) * (1e6 / self.rate)).astype(np.int64)

    def customer_of(self, numbers: np.ndarray) -> np.ndarray:
        """int64 [n]."""
        drawn = self._mixed(numbers, 1)
        among_all = (drawn % np.uint64(self.customers)).astype(np.int64)
        if not self.hot:
            return among_all
        is_hot = (self._mixed(numbers, 2) % np.uint64(1_000)) < np.uint64(1_000 * HOT_SHARE)
        return np.where(is_hot, (drawn % np.uint64(self.hot)).astype(np.int64), among_all)

    def terminal_of(self, numbers: np.ndarray) -> np.ndarray:
        """int64 [n]."""
        return (self._mixed(numbers, 3) % np.uint64(self.terminals)).astype(np.int64)

    def amount_of(self, numbers: np.ndarray) -> np.ndarray:
        """Whole euros from 1 on, int64 [n], so that every sum of them is exact."""
        return (self._mixed(numbers, 4) % np.uint64(_MOST_AMOUNT)).astype(np.int64) + 1

    def _mixed(self, numbers: np.ndarray, column: int) -> np.ndarray:
        """uint64 [n] that follow from number, column and seed (splitmix64)."""
        salt = (column * 0x2545F4914F6CDD1D + self.seed * 0xD1B54A32D192ED03) % 2**64
        with np.errstate(over="ignore"):
            x = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(salt)
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))

    def messages(self) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) of each payment, in the order of their numbers: the customer, and the payment as JSON."""
        for start in range(self.first, self.first + self.count, _BLOCK):
            numbers = np.arange(start, min(start + _BLOCK, self.first + self.count))
            times = np.datetime_as_string(self.due_us(numbers).astype("datetime64[us]"), timezone="UTC").tolist()
            columns = (self.customer_of(numbers), self.terminal_of(numbers), self.amount_of(numbers))
            lists = [column.tolist() for column in columns]
            for number, at, customer, terminal, amount in zip(numbers.tolist(), times, *lists, strict=True):
                text = (
                    f'{{"transaction_id":{number},"customer_id":{customer},"terminal_id":{terminal},'
                    f'"at":"{at}","amount":{amount}.0}}'
                )
                yield b"%d" % customer, text.encode()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Truth:
    """For each customer, the sums of its payments in their order.

    Attributes:
        counts: int64 [customers], how many payments each has.
        totals: int64 [customers], the sum of their amounts.
    """

    def __init__(self, traffic: Traffic) -> None:
        numbers = traffic.numbers
        customers, amounts = traffic.customer_of(numbers), traffic.amount_of(numbers)
        self.counts = np.bincount(customers, minlength=traffic.customers)
        self.totals = np.bincount(customers, weights=amounts, minlength=traffic.customers).astype(np.int64)
        order = np.argsort(customers, kind="stable")
        self._sums = np.concatenate([[0], np.cumsum(amounts[order])])
        self._starts = np.concatenate([[0], np.cumsum(self.counts)])
        self._due_s = traffic.due_us(numbers)[order] / 1e6

    def count_of(self, customer: int, total: float) -> int | None:
        """How many of a customer's first payments add up to this; None: no number of them does. Amounts are above 0."""
        start, end = self._starts[customer], self._starts[customer + 1]
        place = int(np.searchsorted(self._sums[start : end + 1], self._sums[start] + total))
        found = place <= end - start and self._sums[start + place] - self._sums[start] == total
        return place if found else None

    def next_due_s(self, customer: int, count: int) -> float:
        """When the payment after the first `count` is due, seconds since 1970; infinite where there is none."""
        place = self._starts[customer] + count
        return float(self._due_s[place]) if count < self.counts[customer] else np.inf
