"""Made-up card payments with three kinds of fraud, after the simulator of the Fraud Detection Handbook.

The rules are those that the book describes in its chapter 3, "Getting started" (Y.-A. Le Borgne, W. Siblini,
B. Lebichot, G. Bontempi: "Reproducible Machine Learning for Credit Card Fraud Detection - Practical Handbook", ULB
2022). The book's code is not used: each day is drawn in one piece by numpy, from random numbers of its own, so that a
day does not depend on how many days are made.

Customers and terminals lie on a square of 100 by 100. A customer pays at terminals within a distance of 5, 0 to 4
times a day on average (Poisson), at noon give or take 20,000 seconds (normal; what falls on another day is left out).
Amounts lie around a mean of 5 to 100, with half of it as standard deviation (normal; a negative one becomes uniform up
to twice the mean).

A payment is a fraud
1. if its amount is above 220;
2. if its terminal is compromised: two terminals a day are, each for 28 days;
3. of a customer whose card was stolen: three customers a day, each for 14 days, in which a third of the payments are
   frauds, and five times as large.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

START = date.fromisoformat(os.environ.get("CARDS_START", "2018-04-01"))
"""The first day. CARDS_START moves it, and with it all days: a live view is served for a few days after its night."""
DAYS = 183
CUSTOMERS = 5_000
_SIDE, _RADIUS = 100.0, 5.0
_NOON_S, _SPREAD_S, _DAY_S = 43_200, 20_000, 86_400
_LARGE = 220.0
_TERMINALS_A_DAY, _TERMINAL_DAYS = 2, 28
_CARDS_A_DAY, _CARD_DAYS, _STOLEN_SHARE, _TIMES = 3, 14, 1 / 3, 5


@dataclass(frozen=True)
class Payments:
    """The payments of a day in the order of their times; arrays [n].

    Attributes:
        second: Of the day, in steps of a microsecond.
        scenario: Which rule makes it a fraud, the last that does: 1 to 3; 0: it is none.
    """

    day: date
    second: Floats
    customer: Ints
    terminal: Ints
    amount: Floats
    scenario: Ints

    @property
    def fraud(self) -> NDArray[np.bool_]:
        return self.scenario > 0

    @property
    def paid_at(self) -> NDArray[np.datetime64]:
        """datetime64[us], UTC."""
        return np.datetime64(self.day, "us") + np.rint(self.second * 1e6).astype("timedelta64[us]")

    @property
    def ids(self) -> Ints:
        """Numbers of the payments, which no payment of another day has."""
        return (self.day - START).days * 1_000_000 + np.arange(len(self.second))


@dataclass(frozen=True)
class Simulator:
    """Draws days of payments; the same ones for the same numbers.

    With fewer customers there are fewer terminals (two for each) and fewer of both are compromised, in proportion.
    """

    customers: int = CUSTOMERS
    seed: int = 0

    @property
    def terminals(self) -> int:
        return 2 * self.customers

    def days(self, first: date, last: date) -> Iterator[Payments]:
        for number in range((first - START).days, (last - START).days + 1):
            yield self.day(START + timedelta(days=number))

    def day(self, day: date) -> Payments:
        number = (day - START).days
        if number < 0:
            raise ValueError(f"The first day of the payments is {START}; {day} is before it.")
        rng = np.random.default_rng([self.seed, 1, number])
        people = self._people
        customer = np.repeat(np.arange(self.customers), rng.poisson(people.payments_a_day))
        second = np.round(rng.normal(_NOON_S, _SPREAD_S, len(customer)), 6)
        kept = (second >= 0) & (second < _DAY_S) & (people.reach[customer] > 0)
        customer, second = customer[kept], second[kept]
        amount = self._amounts(rng, customer)
        chosen = (rng.random(len(customer)) * people.reach[customer]).astype(np.int64)
        terminal = people.within_reach[people.first[customer] + chosen]
        scenario = np.where(amount > _LARGE, 1, 0)
        scenario[np.isin(terminal, self._compromised(number, 2, self.terminals, _TERMINALS_A_DAY, _TERMINAL_DAYS))] = 2
        stolen = np.isin(customer, self._compromised(number, 3, self.customers, _CARDS_A_DAY, _CARD_DAYS))
        stolen &= rng.random(len(customer)) < _STOLEN_SHARE
        amount = np.where(stolen, np.round(amount * _TIMES, 2), amount)
        scenario[stolen] = 3
        order = np.argsort(second, kind="stable")
        return Payments(day, second[order], customer[order], terminal[order], amount[order], scenario[order])

    def _amounts(self, rng: np.random.Generator, customer: Ints) -> Floats:
        mean = self._people.mean_amount[customer]
        amount = rng.normal(mean, mean / 2)
        return np.round(np.where(amount < 0, rng.uniform(0, 2 * mean), amount), 2)

    def _compromised(self, number: int, scenario: int, of: int, a_day: int, days: int) -> Ints:
        """Which of so many are compromised on a day: those that were drawn on it or on one of the days before."""
        scale = self.customers / CUSTOMERS
        drawn = [np.empty(0, np.int64)]
        for each in range(max(0, number - days + 1), number + 1):
            count = int((each + 1) * a_day * scale) - int(each * a_day * scale)
            drawn.append(np.random.default_rng([self.seed, scenario, each]).choice(of, count, replace=False))
        return np.concatenate(drawn)

    @cached_property
    def _people(self) -> "_People":
        return _People.drawn(np.random.default_rng([self.seed, 0]), self.customers, self.terminals)


@dataclass(frozen=True)
class _People:
    """The customers, and the terminals that each can reach: `within_reach[first[c] : first[c] + reach[c]]`."""

    mean_amount: Floats
    payments_a_day: Floats
    first: Ints
    reach: Ints
    within_reach: Ints

    @classmethod
    def drawn(cls, rng: np.random.Generator, customers: int, terminals: int) -> "_People":
        at, to = rng.uniform(0, _SIDE, (customers, 2)), rng.uniform(0, _SIDE, (terminals, 2))
        found = [np.flatnonzero(((to - each) ** 2).sum(axis=1) < _RADIUS**2) for each in at]
        reach = np.array([len(each) for each in found], np.int64)
        mean, often = rng.uniform(5, 100, customers), rng.uniform(0, 4, customers)
        return cls(mean, often, np.cumsum(reach) - reach, reach, np.concatenate(found))
