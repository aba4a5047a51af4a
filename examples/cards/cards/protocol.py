"""How the Fraud Detection Handbook judges a week of scores (chapters 3.4 and 4): which payments count, and a metric.

Learned from are seven days; the labels of the seven days after them are not known yet; the next seven days are judged.
A customer of whom a fraud is known is left out of what is judged, as its card is blocked. Known on the first judged
day are the frauds of the days learned from, and on each day after it those of one day more.
"""

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from cards.simulator import Floats, Ints

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Protocol:
    """The days: of the Handbook's baseline unless others are given."""

    learned_from: date = date(2018, 7, 25)
    learned_days: int = 7
    delay_days: int = 7
    judged_days: int = 7

    @property
    def judged_from(self) -> date:
        return self.learned_from + timedelta(days=self.learned_days + self.delay_days)

    @property
    def judged_to(self) -> date:
        """The last day."""
        return self.judged_from + timedelta(days=self.judged_days - 1)

    def judged(self, day: NDArray[np.datetime64], customer: Ints, fraud: Mask) -> Mask:
        """Which payments count, bool [n].

        Args:
            day: datetime64[D] [n], of all payments since the first day that is learned from.
        """
        counts = np.zeros(len(day), bool)
        start = np.datetime64(self.learned_from)
        for number in range(self.judged_days):
            known = fraud & (day >= start) & (day < start + self.learned_days + number)
            today = day == start + self.learned_days + self.delay_days + number
            counts |= today & ~np.isin(customer, customer[known])
        return counts


def card_precision(day: NDArray[np.datetime64], customer: Ints, fraud: Mask, score: Floats, *, top: int = 100) -> float:
    """Of the `top` customers of a day with the highest scores, the share that has a fraud on it: mean over the days.

    A customer that was found so is blocked: it does not count on the days after.
    """
    shares, blocked = [], np.empty(0, np.int64)
    for each in np.unique(day):
        left = (day == each) & ~np.isin(customer, blocked)
        customers, number = np.unique(customer[left], return_inverse=True)
        highest, bad = np.full(len(customers), -np.inf), np.zeros(len(customers), bool)
        np.maximum.at(highest, number, score[left])
        np.logical_or.at(bad, number, fraud[left])
        first = np.argsort(-highest, kind="stable")[:top]
        found = customers[first][bad[first]]
        shares.append(len(found) / top)
        blocked = np.concatenate([blocked, found])
    return float(np.mean(shares))
