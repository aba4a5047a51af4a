"""The report of a replay of a day: the verdict, a sentence, and the rows of the table of results."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, timezone
from functools import cache
from typing import TYPE_CHECKING, Any

from forecache.plugins.parity.check_stores import StoreCheck
from forecache.plugins.parity.replay_result import REASONS, Differences, ReplayResult

if TYPE_CHECKING:
    import pyarrow as pa

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
        """True if nothing differs, and an answer was compared unless there were no requests.

        Answers that cannot be computed again are reported, and do not fail the check.
        """
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
        """Return the whole report as JSON values."""
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
    """Make the rows of a report."""
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
