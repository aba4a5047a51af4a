"""The peer of section fraud: features and random forest of the Fraud Detection Handbook (chapters 3.3 and 3.4).

A window of the Handbook ends at the payment and includes it; a terminal's ends a week before it. They are exact to the
second, computed over all payments at once with cumulative sums.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

_DAY_S, _DAYS, _DELAY_S = 86_400, (1, 7, 30), 7 * 86_400
_FAR_S = 10**9


class _ByKey:
    """Payments in the order of a key and of time."""

    def __init__(self, key: np.ndarray, second: np.ndarray) -> None:
        self._key, self._second = key, second
        self._order = np.lexsort((second, key))
        self._codes = key[self._order] * _FAR_S + second[self._order]

    def sums(self, values: np.ndarray, length_s: int, delay_s: int = 0) -> np.ndarray:
        """Of each payment the sum over its key in the seconds (end - length, end], end its own less the delay."""
        until = np.concatenate([[0.0], np.cumsum(values[self._order])])
        floor = self._key * _FAR_S - 1
        end = np.maximum(self._key * _FAR_S + self._second - delay_s, floor)
        last = np.searchsorted(self._codes, end, "right")
        first = np.searchsorted(self._codes, np.maximum(end - length_s, floor), "right")
        found: np.ndarray = until[last] - until[first]
        return found


def features(payments: Mapping[str, np.ndarray]) -> np.ndarray:
    """float64 [n, 15].

    Args:
        payments: Arrays [n]: `second` (since the first day), `customer`, `terminal`, `amount`, `fraud`, `weekday` (from
            Monday, 0).
    """
    second, amount = payments["second"], payments["amount"]
    customers = _ByKey(payments["customer"], second)
    terminals = _ByKey(payments["terminal"], second)
    ones, fraud = np.ones(len(second)), payments["fraud"].astype(float)
    columns: list[Any] = [amount, payments["weekday"] >= 5, second % _DAY_S // 3600 <= 6]
    for days in _DAYS:
        count = customers.sums(ones, days * _DAY_S)
        columns += [count, customers.sums(amount, days * _DAY_S) / count]
    for days in _DAYS:
        count = terminals.sums(ones, days * _DAY_S, _DELAY_S)
        columns += [count, terminals.sums(fraud, days * _DAY_S, _DELAY_S) / np.maximum(count, 1)]
    return np.column_stack(columns)


def forest_scores(matrix: np.ndarray, fraud: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The scores of scikit-learn's random forest of 100 trees for the rows `test`, learned from the rows `train`."""
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(random_state=0, n_jobs=-1).fit(matrix[train], fraud[train])
    found: np.ndarray = forest.predict_proba(matrix[test])[:, 1]
    return found
