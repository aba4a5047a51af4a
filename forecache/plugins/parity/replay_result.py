"""The result of a replay of logged requests; results of several processes add up."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone

import numpy as np

from forecache.plugins.parity.differences import Differences, bits_of, format_number

KEPT = 20
"""Number of first differences that are reported."""
REASONS = {
    "release": "the release is not here any more, or another one has its number now",
    "version": "a store has removed the version, and the lake its table's Delta version",
    "layout": "no version that is left says how a removed version's rows were laid out",
    "not logged": "the log does not name the versions that the features came from, or of live views the moment",
    "unread": "the reader had no time to read the request",
    "live": "a live view is declared otherwise by now, or its stream's table was made anew",
    "pending": "rows of a stream were seen before their commit, and no commit has followed, or one in another order",
}
"""Reasons why a request cannot be computed again, by a code for each."""


@dataclass(frozen=True, order=True)
class AnswerDifference:
    """The first difference in a request.

    Attributes:
        arrived_us: Microseconds of Unix time.
        kind: "feature", "score", "rung", "order", "items", or the part that failed: "request", "transform", "model".
        name: Name of the feature; "" for other kinds.
        place: Place of the candidate in the request.
        logged, offline: Both values; numbers as their bits in hex and in decimal.
    """

    arrived_us: int
    request_id: str
    release: int
    kind: str
    name: str = ""
    place: int = 0
    logged: str = ""
    offline: str = ""

    @property
    def arrived_at(self) -> str:
        """ISO 8601 in UTC, to the microsecond."""
        moment = datetime.fromtimestamp(self.arrived_us // 10**6, timezone.utc).replace(
            microsecond=self.arrived_us % 10**6
        )
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    @property
    def sentence(self) -> str:
        what = f"{self.kind} {self.name}".strip()
        where = f" of the candidate at place {self.place}" if self.kind in ("feature", "score") else ""
        return (
            f"Request {self.request_id} of {self.arrived_at}, answered by release {self.release}: {what}{where} "
            f"was logged as {self.logged} and is {self.offline} when computed again."
        )


@dataclass
class ReplayResult:
    """Counts, figures and first differences of the answers of a part of the log, or of all of it.

    Attributes:
        requests: Logged answers that were read.
        equal, differ: Answers among them that were computed again.
        not_recomputed: The other answers by reason, see `REASONS`.
        by_model: Answers whose features and scores were computed again.
        features: Figures by name of the feature.
        scores: Figures of the model's scores.
        first: The earliest differences, at most `KEPT`.
        kinds: Answers that differ, by the kind of their first difference.
    """

    requests: int = 0
    equal: int = 0
    differ: int = 0
    by_model: int = 0
    not_recomputed: Counter[str] = field(default_factory=Counter)
    features: dict[str, Differences] = field(default_factory=dict)
    scores: Differences = field(default_factory=Differences)
    first: list[AnswerDifference] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)

    def feature(self, name: str) -> Differences:
        return self.features.setdefault(name, Differences())

    def add_difference(self, difference: AnswerDifference) -> None:
        """Count a request that differs."""
        self.differ += 1
        self.kinds[difference.kind] += 1
        self._keep([difference])

    def merge(self, other: "ReplayResult") -> None:
        for name in ("requests", "equal", "differ", "by_model"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.not_recomputed.update(other.not_recomputed)
        self.kinds.update(other.kinds)
        for name, differences in other.features.items():
            self.feature(name).merge(differences)
        self.scores.merge(other.scores)
        self._keep(other.first)

    def _keep(self, more: Iterable[AnswerDifference]) -> None:
        self.first = sorted([*self.first, *more])[:KEPT]


def first_difference_of(logged: np.ndarray, offline: np.ndarray) -> tuple[int, int, str, str]:
    """Find the first value with other bits in two matrices [n, d] of one type: (row, column, logged, offline)."""
    row, column = (int(each) for each in np.argwhere(bits_of(logged) != bits_of(offline))[0])
    return row, column, format_number(logged[row, column]), format_number(offline[row, column])
