"""A backfill: runs for many as-of dates one after the other, within a budget; what is done stays.

The dates are given, or are those whose rows failed a check, or those that a version of the code made.
"""

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone

from forecache.base.dates import Nights
from forecache.base.errors import CheckError, ForecacheError, InputError, NotYetError, PipelinesFailedError
from forecache.base.results import Progress
from forecache.base.settings import Settings
from forecache.declare import FeatureView, Pipeline, Realtime
from forecache.declare.as_of import as_of_range, newest_as_of
from forecache.declare.project import Nightly
from forecache.declare.served import NightlyDeclaration
from forecache.kit.delta.tables import table_exists, table_version
from forecache.lake.engine import num_cores
from forecache.lake.features import STAGE as FEATURES
from forecache.lake.ledger import LEDGER_TABLE, StageRecord, last_records, records_after
from forecache.lake.quality.verdicts import DRIFT_STAGE, has_passed
from forecache.lake.quality.verdicts import STAGE as CHECK

_OF_A_DATE = (CheckError, InputError, NotYetError)
"""Errors that say something about a date's rows: the other dates go on."""


class BudgetSpentError(ForecacheError):
    """A backfill has used the core-hours that it may use; the dates before are done."""

    exit_code = 9
    title = "Budget spent"


@dataclass(frozen=True)
class BackfillRun:
    """One run of a backfill: declarations by name, and the first and last as-of date."""

    names: tuple[str, ...]
    nights: Nights

    def __str__(self) -> str:
        first, last = self.nights
        return f"{', '.join(self.names)} for {first if first == last else f'{first} to {last}'}"


@dataclass(frozen=True)
class DateChoice:
    """The choice of a backfill's as-of dates; of several conditions, all are met.

    Attributes:
        ranges: First and last day of each range, ascending; none: all dates that meet the other conditions, or the
            newest if there are none.
        failed: Only dates that failed their last check.
        made_by: Only dates whose rows a version of the code made, which this text begins.
        one_by_one: Every date is a run of its own; else those of a range are, or those that follow each other.
    """

    ranges: Sequence[Nights] = ()
    failed: bool = False
    made_by: str = ""
    one_by_one: bool = False

    def list_runs(self, settings: Settings, declared: Sequence[Nightly]) -> list[BackfillRun]:
        """The runs of some declarations, ascending; InputError for a date that a declaration does not have."""
        if self.ranges and not (self.failed or self.made_by or self.one_by_one):
            return [BackfillRun(tuple(each.name for each in declared), span) for span in self.ranges]
        found: dict[Nights, list[str]] = {}
        for each in declared:
            for span in self._join_dates(each, self._find_dates(settings, each)):
                found.setdefault(span, []).append(each.name)
        return [BackfillRun(tuple(found[span]), span) for span in sorted(found)]

    def _find_dates(self, settings: Settings, declared: Nightly) -> set[date]:
        conditions = []
        if self.failed:
            conditions.append(find_failed_dates(settings, declared))
        if self.made_by:
            conditions.append(find_dates_made_by(settings, declared, self.made_by))
        if self.ranges and conditions:
            return {day for day in set.intersection(*conditions) if any(a <= day <= b for a, b in self.ranges)}
        if conditions:
            return set.intersection(*conditions)
        spans = [as_of_range(declared, *span) for span in self.ranges or [(newest_as_of(declared),) * 2]]
        return {day for span in spans for day in declared.schedule.as_of_dates(*span)}

    def _join_dates(self, declared: Nightly, days: Collection[date]) -> list[Nights]:
        ranges: list[Nights] = []
        for day in sorted(days):
            if ranges and not self.one_by_one and len(declared.schedule.as_of_dates(ranges[-1][1], day)) == 2:
                ranges[-1] = (ranges[-1][0], day)
            else:
                ranges.append((day, day))
        return ranges


def find_failed_dates(settings: Settings, declared: Nightly) -> set[date]:
    """The as-of dates of which a table that the declaration writes failed its last check, or has drifted too far."""
    found: set[date] = set()
    for table in _tables_of(declared):
        for stage in (CHECK, DRIFT_STAGE):
            records = last_records(settings, stage, table)
            found |= {night for night, row in records.items() if night and _has_failed(row)}
    return found


def find_dates_made_by(settings: Settings, declared: Nightly, code_version: str) -> set[date]:
    """The as-of dates whose present rows were made by a version of the code, which `code_version` begins."""
    return {
        night
        for stage, subject in _stages_of(declared)
        for night, row in last_records(settings, stage, subject).items()
        if night and row.code_version.startswith(code_version)
    }


def _has_failed(row: StageRecord) -> bool:
    return bool(row.details["blocks"]) if row.stage == DRIFT_STAGE else not has_passed(row)


def _tables_of(declared: Nightly) -> set[str]:
    """The tables whose checks stop the declaration's run."""
    if isinstance(declared, FeatureView):
        return {declared.feature_table}
    if isinstance(declared, NightlyDeclaration):
        return {table.prediction_table for table in declared.tables}
    own = {declared.feature_table, declared.prediction_table} if isinstance(declared, Pipeline) else set()
    return own | {view.feature_table for view in declared.views}


def _stages_of(declared: Nightly) -> Iterable[tuple[str, str]]:
    """Stage and subject in the ledger of the rows that the declaration's run ends with."""
    if isinstance(declared, Realtime):
        return [(FEATURES, view.name) for view in declared.views]
    if isinstance(declared, NightlyDeclaration):
        return [(declared.stage, declared.name)]
    return [(FEATURES if isinstance(declared, FeatureView) else "score", declared.name)]


def run_backfill(
    settings: Settings,
    runs: Sequence[BackfillRun],
    run: Callable[[BackfillRun], object],
    *,
    max_core_hours: float | None = None,
    progress: Progress,
) -> None:
    """Carry out runs one after the other, and say after each what remains and when it will probably end.

    An error about the rows of some dates, such as a failed check, does not stop the other runs; any other does.

    Args:
        max_core_hours: No run is begun once those before it have used so much, by the ledger.

    Raises:
        BudgetSpentError: The budget is used, and no run failed. The same command goes on: what is done is up to date.
        PipelinesFailedError: Some runs failed.
    """
    failures: dict[str, BaseException] = {}
    started, used_s = time.monotonic(), 0.0
    seen = table_version(settings, LEDGER_TABLE) if table_exists(settings, LEDGER_TABLE) else -1
    for done, each in enumerate(runs):
        if max_core_hours is not None and used_s >= max_core_hours * 3600:
            spent = BudgetSpentError(
                f"Stopped before {each}: {used_s / 3600:.3g} core-hours are used, and it may use {max_core_hours:g}; "
                f"{done} of {len(runs)} runs are done.",
                remedy="The same command goes on with the others.",
            )
            if failures:
                raise PipelinesFailedError({**failures, str(each): spent}, of=len(runs))
            raise spent
        progress(_describe_rest(done, len(runs), time.monotonic() - started, each), done / len(runs))
        try:
            run(each)
        except _OF_A_DATE as error:
            failures[str(each)] = error
        except PipelinesFailedError as error:
            if not all(isinstance(failure, _OF_A_DATE) for failure in error.failures.values()):
                raise
            failures[str(each)] = error
        rows = records_after(settings, seen)
        used_s += sum(row.core_s(num_cores()) for row in rows)
        seen = max((row.commit_version for row in rows if row.commit_version is not None), default=seen)
    if len(failures) == 1 == len(runs):
        raise next(iter(failures.values()))
    if failures:
        raise PipelinesFailedError(failures, of=len(runs))


def _describe_rest(done: int, of: int, seconds: float, each: BackfillRun) -> str:
    """The next run, how many come after it, and from those done the time at which all will be."""
    if not done:
        return f"run 1 of {of}: {each}"
    left = timedelta(seconds=round(seconds / done * (of - done)))
    return f"run {done + 1} of {of}: {each}; all done in {left}, at {datetime.now(timezone.utc) + left:%H:%M} UTC"
