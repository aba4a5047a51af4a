"""The result of a replay of logged requests; results of several processes add up.

The figures are those of Chronon's job for online/offline consistency. Quantiles are taken from buckets whose bounds
grow by a factor of 2**(1/12), as in DDSketch (Masson, Rim and Lee, VLDB 2019): their error is at most 3 percent, in
whichever order values are added.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, timezone
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from forecache.plugins.parity.check_stores import StoreCheck

if TYPE_CHECKING:
    import pyarrow as pa


_STEPS = 12
"""Buckets within a factor of two."""


@dataclass
class Differences:
    """Differences of one feature, or of the scores."""

    values: int = 0  # number of compared values
    mismatch: int = 0  # number of values with other bits, including `missing` and `extra`
    missing: int = 0  # values logged as NaN that are a number when computed again
    extra: int = 0  # values logged as a number that are NaN when computed again
    pairs: int = 0  # values that are finite on both sides; the following are about these
    sum_abs: float = 0.0  # of the absolute differences
    max_abs: float = 0.0
    sum_smape: float = 0.0  # sum of |a - b| / ((|a| + |b|) / 2)
    buckets: dict[int, int] = field(default_factory=dict)  # of absolute differences above 0

    def add_equal(self, values: int, finite: int) -> None:
        """Count values that have the same bits, of which `finite` are finite numbers."""
        self.values += values
        self.pairs += finite

    def add(self, logged: np.ndarray, offline: np.ndarray) -> None:
        """Count values [n] of the same type."""
        other = bits_of(logged) != bits_of(offline)
        unknown, unknown_offline = np.isnan(logged), np.isnan(offline)
        self.values += len(logged)
        self.mismatch += int(other.sum())
        self.missing += int((unknown & ~unknown_offline).sum())
        self.extra += int((~unknown & unknown_offline).sum())
        both = np.isfinite(logged) & np.isfinite(offline)
        self.pairs += int(both.sum())
        left, right = logged[both].astype(np.float64), offline[both].astype(np.float64)
        size, scale = np.abs(left - right), (np.abs(left) + np.abs(right)) / 2
        self.sum_abs += float(size.sum())
        self.max_abs = max(self.max_abs, float(size.max(initial=0.0)))
        self.sum_smape += float((size[scale > 0] / scale[scale > 0]).sum())
        places = np.ceil(np.log2(size[size > 0]) * _STEPS).astype(np.int64)
        for place, count in zip(*np.unique(places, return_counts=True), strict=True):
            self.buckets[int(place)] = self.buckets.get(int(place), 0) + int(count)

    def merge(self, other: "Differences") -> None:
        for name in ("values", "mismatch", "missing", "extra", "pairs", "sum_abs", "sum_smape"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.max_abs = max(self.max_abs, other.max_abs)
        for place, count in other.buckets.items():
            self.buckets[place] = self.buckets.get(place, 0) + count

    def quantile(self, share: float) -> float:
        """Return the absolute difference that this share of the pairs does not exceed."""
        left = share * self.pairs - (self.pairs - sum(self.buckets.values()))
        if left <= 0:
            return 0.0
        for place in sorted(self.buckets):
            left -= self.buckets[place]
            if left <= 0:
                return float(min(2.0 ** ((place - 0.5) / _STEPS), self.max_abs))
        return self.max_abs

    def figures(self) -> dict[str, Any]:
        pairs, quantiles = max(1, self.pairs), (self.quantile(share) for share in (0.5, 0.9, 0.99))
        counts = (self.values, self.mismatch, self.missing, self.extra)
        sizes = (self.sum_abs / pairs, self.max_abs, self.sum_smape / pairs, *quantiles)
        return dict(zip(FIGURES, (*counts, *sizes), strict=True))


def bits_of(values: np.ndarray) -> np.ndarray:
    """View numbers as unsigned integers with the same bits and shape."""
    return np.ascontiguousarray(values).view(f"<u{values.dtype.itemsize}")


def format_number(value: Any) -> str:
    """Format a number for a message: its bits in hex, and the shortest decimal that has these bits."""
    bits = bits_of(np.array([value]))[0]
    return f"0x{int(bits):0{2 * value.dtype.itemsize}x} ({value!s})"


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
    """The first difference in a request."""

    arrived_us: int  # microseconds of Unix time
    request_id: str
    release: int
    kind: str  # "feature", "score", "answered_by", "order", "items"; what failed: "request", "transform", "model"
    name: str = ""  # name of the feature; "" for other kinds
    place: int = 0  # place of the candidate in the request
    logged: str = ""  # numbers as their bits in hex and in decimal
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
    """Counts, figures and first differences of the answers of a part of the log, or of all of it."""

    requests: int = 0  # logged answers that were read
    equal: int = 0  # of those that were computed again
    differ: int = 0
    by_model: int = 0  # answers whose features and scores were computed again
    not_recomputed: Counter[str] = field(default_factory=Counter)  # the other answers by reason, see `REASONS`
    features: dict[str, Differences] = field(default_factory=dict)  # figures by name of the feature
    scores: Differences = field(default_factory=Differences)  # figures of the model's scores
    first: list[AnswerDifference] = field(default_factory=list)  # the earliest differences, at most `KEPT`
    kinds: Counter[str] = field(default_factory=Counter)  # answers that differ, by the kind of their first difference

    def feature(self, name: str) -> Differences:
        return self.features.setdefault(name, Differences())

    def add_difference(self, difference: AnswerDifference) -> None:
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


FIGURES = ("compared", "mismatch", "missing", "extra", "mean_abs", "max_abs", "smape", "p50_abs", "p90_abs", "p99_abs")
_COUNTS = 4
"""So many of the first figures are counts."""


@dataclass(frozen=True)
class ParityReport:
    """The result of a replay of a day, about its answers and the versions that they name."""

    name: str  # name of the real-time model
    day: date
    log_version: int  # Delta version of the log that was read
    sample: float  # share of the requests that were computed again
    found: ReplayResult
    stores: Sequence[StoreCheck]
    seconds: float

    @property
    def has_passed(self) -> bool:
        """True if nothing differs, and an answer was compared unless there were no requests; some may be left out."""
        found = self.found
        has_compared = bool(found.equal) or not found.requests
        return has_compared and not found.differ and not any(check.state == "differs" for check in self.stores)

    @property
    def sentence(self) -> str:
        """The verdict: the first difference, or how many requests are equal to the bit."""
        found, left = self.found, self.omissions
        others = f" {left}" if left else ""
        if found.differ:
            return f"{found.differ:,} of {found.requests:,} requests differ. {found.first[0].sentence}{others}"
        wrong = [check for check in self.stores if check.state == "differs"]
        if wrong:
            return f"{wrong[0].why}{others}"
        if not found.requests:
            sampled = "" if self.sample >= 1 else f" and in the sample of {self.sample:g}"
            return f"Nothing was compared: no request of {self.day} is in the log{sampled}."
        if not found.equal:
            return f"Nothing was compared. {left}"
        return f"All {found.equal:,} requests that were computed again are equal to the bit.{others}"

    @property
    def omissions(self) -> str:
        """A sentence on the requests that could not be computed again, and why; "" if there are none."""
        counts = {name: count for name, count in self.found.not_recomputed.items() if count}
        if not counts:
            return ""
        whys = "; ".join(f"{count:,}: {REASONS[name]}" for name, count in sorted(counts.items()))
        return f"{sum(counts.values()):,} could not be computed again ({whys})."

    def details(self) -> dict[str, Any]:
        found = self.found
        return {
            "day": self.day.isoformat(),
            "passed": self.has_passed,
            "sentence": self.sentence,
            "log_version": self.log_version,
            "sample": self.sample,
            "requests": found.requests,
            "equal": found.equal,
            "differ": found.differ,
            "not_recomputed": {name: count for name, count in sorted(found.not_recomputed.items()) if count},
            "by_model": found.by_model,
            "kinds": dict(sorted(found.kinds.items())),
            "first": [{**asdict(each), "arrived_at": each.arrived_at} for each in found.first],
            "features": {name: each.figures() for name, each in found.features.items()},
            "scores": found.scores.figures(),
            "stores": [
                {"name": check.version.name, "version": check.version.version, "as_of": check.version.as_of,
                 "table": check.version.table, "delta_version": check.version.delta_version, "rows": check.rows,
                 "state": check.state, "why": check.why}
                for check in self.stores
            ],
        }  # fmt: skip


@cache
def result_schema() -> "pa.Schema":
    """The columns of the table of results.

    kind, name: "requests"; "feature" and its name; "score"; "store" and its name with the version.
    compared, mismatch: Requests, or values: how many were computed again, and how many of these differ.
    missing, extra: Values that were logged as NaN and are numbers, and the other way round.
    mean_abs ... p99_abs: Of the absolute differences, over all values that are numbers on both sides.
    smape: Mean of |a - b| / ((|a| + |b|) / 2) over them.
    details: JSON with further values of the kind.
    """
    import pyarrow as pa

    counts = [(name, pa.int64()) for name in FIGURES[:_COUNTS]]
    sizes = [(name, pa.float64()) for name in FIGURES[_COUNTS:]]
    return pa.schema(
        [
            ("day", pa.date32()),
            ("kind", pa.string()),
            ("name", pa.string()),
            *counts,
            *sizes,
            ("details", pa.string()),
            ("log_version", pa.int64()),
            ("checked_at", pa.timestamp("us", tz="UTC")),
        ]
    )


def result_rows(report: ParityReport) -> "pa.Table":
    import pyarrow as pa

    found, details = report.found, report.details()
    named = ("passed", "sentence", "sample", "requests", "not_recomputed", "by_model", "kinds", "first")
    rows = [
        {
            "kind": "requests",
            "name": report.name,
            "compared": found.equal + found.differ,
            "mismatch": found.differ,
            "details": {name: details[name] for name in named},
        },
        *(_differences_row(differences, "feature", name) for name, differences in found.features.items()),
        _differences_row(found.scores, "score", report.name),
        *(
            {
                "kind": "store",
                "name": check.version.title,
                "compared": int(check.state != "not compared"),
                "mismatch": int(check.state == "differs"),
                "details": each,
            }
            for check, each in zip(report.stores, details["stores"], strict=True)
        ),
    ]
    common = {"day": report.day, "log_version": report.log_version, "checked_at": datetime.now(timezone.utc)}
    return pa.Table.from_pylist(
        [{**row, **common, "details": json.dumps(row["details"], sort_keys=True)} for row in rows],
        schema=result_schema(),
    )


def _differences_row(differences: Differences, kind: str, name: str) -> dict[str, Any]:
    return {"kind": kind, "name": name, **differences.figures(), "details": {"pairs": differences.pairs}}
