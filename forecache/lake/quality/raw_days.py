"""Verdicts on the days of a raw table, kept in the stage ledger: nothing is built from a day that failed a check.

A verdict is current as long as the day's files, its rows and the expectations are the ones that were checked.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from forecache.base.settings import Settings
from forecache.declare import Source
from forecache.lake.ingest.ingested_files import IngestedFile, delivered_days
from forecache.lake.ledger import StageRecord, last_records_of_stages
from forecache.lake.quality.expectations import raw_expectations
from forecache.lake.quality.reconcile import DayCounts, Reconciliation, day_counts, reconcile
from forecache.lake.quality.report import CheckReport
from forecache.lake.quality.verdicts import STAGE as CHECK
from forecache.lake.quality.verdicts import check_inputs
from forecache.lake.stage import Stage, StageOutcome

RECONCILE = "reconcile"
"""Stage of the verdicts on whether a day's rows add up."""

Records = Mapping[date | None, StageRecord]


@dataclass(frozen=True)
class RawVerdicts:
    """The last verdicts on each day: on its expectations, and on whether its rows add up to the landing rows."""

    source: Source
    checks: Records
    sums: Records

    @property
    def refused_days(self) -> set[date]:
        """The days whose last verdict failed, even if their rows have changed since."""
        checks = {day for day, row in self.checks.items() if day and not CheckReport.from_dict(row.details).success}
        return checks | {day for day, row in self.sums.items() if day and not row.details["success"]}

    def current_verdicts(self, files: Sequence[IngestedFile], *, last: date) -> dict[date, str]:
        """The reason why a day failed, "" if it passed, for each day up to `last` whose verdicts are current.

        A day whose rows did not add up is never current: the table may have been repaired without another file.
        """
        days = {file.event_day for file in files if file.event_day and file.event_day <= last}
        states = row_states(self.source, day_counts(files, days))
        read = delivered_days(files)
        expected = check_inputs({day: states[day] for day in days & read}, raw_expectations(self.source))
        found = {}
        for day in sorted(days):
            check, total = self.checks.get(day), self.sums.get(day)
            adds_up = total is not None and total.inputs == states[day] and total.details["success"]
            is_checked = day not in read or (check is not None and check.inputs == expected[day])
            if adds_up and is_checked:
                report = CheckReport.from_dict(check.details) if check is not None and day in read else None
                found[day] = "" if report is None or report.success else report.sentence
        return found


def raw_verdicts(settings: Settings, source: Source) -> RawVerdicts:
    """The last verdicts on the days of a source's raw table."""
    found = last_records_of_stages(settings, [CHECK, RECONCILE], source.raw_table)
    return RawVerdicts(source, found[CHECK], found[RECONCILE])


def row_states(source: Source, counts: Mapping[date, DayCounts]) -> dict[date, str]:
    """Text that identifies the rows of each day."""
    return {day: f"{source.raw_table}@{count.raw_version}" for day, count in counts.items()}


def reconcile_days(
    settings: Settings, source: Source, days: Collection[date], *, files: Sequence[IngestedFile], run_id: str = ""
) -> dict[date, Reconciliation]:
    """Reconcile days with the present raw and quarantine tables, and record each verdict that is new."""
    started = time.perf_counter()
    found = reconcile(settings, source, days, ingested=files)
    table = source.raw_table
    done = {
        day: StageOutcome(outcome.landing, {"success": outcome.success, "sentence": outcome.sentence}, table)
        for day, outcome in found.items()
    }
    states = row_states(source, day_counts(files, days))
    Stage(settings, RECONCILE, table, run_id).record_changes(states, done, time.perf_counter() - started)
    return found
