"""Pending landing files: the run that reads them ingests and checks them; a day that fails a check stops it."""

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol

from forecache.base.alert import Alert, Severity, Subject
from forecache.base.errors import CheckError
from forecache.base.plugins import find_hooks, load_hook
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.base.steps import is_looking, look_once
from forecache.declare import AnySource, Source, TableSource
from forecache.lake.ingest.ingest import ingest
from forecache.lake.ingest.ingested_files import (
    IngestedFile,
    delivered_days,
    files_to_ingest,
    ingested_files,
    pending_days,
)
from forecache.lake.ingest.landing import list_landing
from forecache.lake.quality.expectations import EXPECTATIONS, READ, RECONCILES, WARNINGS, raw_expectations
from forecache.lake.quality.raw_days import Reconciliation, day_counts, raw_verdicts, reconcile_days, row_states
from forecache.lake.quality.validate import CheckReport
from forecache.lake.quality.verdicts import check_nights


class Run(Protocol):
    """A run of stages: it gives each its id and progress, and keeps the results."""

    settings: Settings
    run_id: str
    rebuild: bool

    def run_stage(self, stage: Callable[..., StageResult], *arguments: Any, **more: Any) -> StageResult: ...
    def progress(self, message: str, share: float | None = None) -> None: ...
    def report_progress(self, message: str) -> None: ...
    def add_objection(self, reason: str) -> None: ...


class ProcessRun(Run):
    """A run in this process, without an orchestrator."""

    def __init__(
        self,
        settings: Settings,
        progress: Progress = no_progress,
        *,
        on_stage: Callable[[StageResult], None] = lambda result: None,
        rebuild: bool = False,
    ) -> None:
        self.settings, self.run_id, self.rebuild = settings, str(uuid.uuid4()), rebuild
        self.job_name, self.nights = "", tuple[date, ...]()  # of the job under way, with its first and last date
        self.objections: list[str] = []  # reasons of verdicts that did not fail their stage, such as the gate's
        self.checks: dict[Subject, Alert | None] = {}  # of the job under way; None: the check passed
        self.results: list[StageResult] = []
        self._progress, self._on_stage = progress, on_stage

    def run_stage(self, stage: Callable[..., StageResult], *arguments: Any, **more: Any) -> StageResult:
        with ExitStack() as around:
            for watch in () if is_looking() else find_hooks("around_stage"):
                about = {"run_id": self.run_id, "job_name": self.job_name, "nights": self.nights}
                around.enter_context(watch(self.settings, stage, arguments, **about))
            result = stage(*arguments, **more, run_id=self.run_id, progress=self.progress)
        self.results.append(result)
        self._on_stage(result)
        return result

    def progress(self, message: str, share: float | None = None) -> None:
        self._progress(message, share)

    def report_progress(self, message: str) -> None:
        self.progress(message)

    def add_objection(self, reason: str) -> None:
        self.objections.append(reason)

    def note_check(self, table: str, check: str, night: date, reason: str, severity: Severity) -> None:
        """Keep the outcome of a check of a date, by the name that it has in Dagster; no reason: it passed."""
        name = f"{table}.{check}"
        details = {"asset": table, "check": check, "run_id": self.run_id}
        failed = Alert("check_failed", name, severity, f"{name} for {night}: {reason}", details, occasion=str(night))
        self.checks[failed.subject] = failed if reason else None

    def note_reports(self, table: str, reports: Mapping[date, CheckReport]) -> Mapping[date, CheckReport]:
        """Keep the outcomes of expectations."""
        for night, report in reports.items():
            self.note_check(table, EXPECTATIONS, night, "" if report.success else report.sentence, "critical")
            self.note_check(table, WARNINGS, night, " ".join(each.sentence for each in report.warnings), "info")
        return reports

    def note_raw_checks(self, source: Source, found: "RawChecks", files: Sequence[IngestedFile]) -> None:
        """Keep the outcomes of checks of days of a raw table."""
        self.note_reports(source.raw_table, found.reports)
        for day, each in found.sums.items():
            self.note_check(source.raw_table, RECONCILES, day, "" if each.success else each.sentence, "critical")
            severity: Severity = "info" if day in found.reports else "warning"
            self.note_check(source.raw_table, READ, day, unread_reason(files, day), severity)


def unread_reason(files: Sequence[IngestedFile], day: date) -> str:
    """The landing files of a day that are in quarantine whole, with the reasons; "" if there is none."""
    names = [f"{file.file}: {file.error}" for file in files if file.error is not None and file.event_day == day]
    return f"{len(names)} in quarantine: {'; '.join(names)}." if names else ""


@dataclass(frozen=True)
class RawChecks:
    """Checks of days of a raw table."""

    reports: Mapping[date, CheckReport]  # of each day with a file that was read
    sums: Mapping[date, Reconciliation]  # whether the rows of each day add up

    @property
    def refusals(self) -> dict[date, str]:
        """The reason for each day that nothing may be built from."""
        failed = {day: each.sentence for day, each in self.reports.items() if not each.success}
        return failed | {day: each.sentence for day, each in self.sums.items() if not each.success}


def days_to_extract(settings: Settings, source: Source, *, first: date, last: date) -> list[date]:
    """The days from `first` to `last` whose rows a database or a stream has and no landing file, ascending.

    None in a trial, which only reads the landing zone of the environment that it defers to.
    """
    if source.extract is None or settings.base is not None:
        return []
    days: list[date] = load_hook("table_sources", "days_to_extract")(settings, source, first=first, last=last)
    return days


def extract_days(run: Run, source: Source, days: Collection[date], *, rebuild: bool = False) -> None:
    """Write the landing files of days that have none, if the source's rows come from a database or a stream."""
    if source.extract is not None and days:
        run.run_stage(load_hook("table_sources", "extract"), run.settings, source, days, rebuild=rebuild)
        if reason := load_hook("table_sources", "extraction_delay_reason")(run.settings, source, max(days)):
            run.report_progress(reason)


def ingest_pending(
    run: Run,
    source: AnySource,
    *,
    last: date,
    on_ingested: Callable[[Sequence[IngestedFile]], None] = lambda files: None,
    on_checked: Callable[[RawChecks, Sequence[IngestedFile]], None] = lambda checks, files: None,
) -> None:
    """Ingest the pending landing files of a source up to a day, and check the days that were not checked since, such as
    those that a killed run has ingested. For an existing table there is nothing to do.

    `on_ingested` is called also if ingesting some files failed. CheckError if a check refuses a day up to `last`, in
    this run or since an earlier one.
    """
    if not isinstance(source, TableSource):
        key = ("pending", run.settings.lake_uri, source.name, last)
        look_once(key, lambda: _ingest_pending(run, source, last, on_ingested, on_checked))


def _ingest_pending(
    run: Run,
    source: Source,
    last: date,
    on_ingested: Callable[[Sequence[IngestedFile]], None],
    on_checked: Callable[[RawChecks, Sequence[IngestedFile]], None],
) -> None:
    settings = run.settings
    extract_days(run, source, days_to_extract(settings, source, first=source.start, last=last))
    files, known = ingested_files(settings, source), raw_verdicts(settings, source)
    landed = list_landing(settings, source)
    # A database can be queried again, and its new answers replace the files.
    correctable = {file.day for file in landed if file.day} if source.extract else known.refused_days
    waiting = files_to_ingest(settings, source, landed, files, correctable=correctable)
    days = pending_days(waiting, first=source.start, last=last)
    if days:
        try:
            run.run_stage(ingest, settings, source, days=days, correctable=correctable)
        finally:
            files = ingested_files(settings, source)
            on_ingested(files)
    standing = known.current_verdicts(files, last=last)
    refused = {day: reason for day, reason in standing.items() if reason}
    unjudged = {file.event_day for file in files if file.event_day and file.event_day <= last} - standing.keys()
    if unjudged:
        checks = check_raw_days(run, source, unjudged, files)
        on_checked(checks, files)
        refused |= checks.refusals
    if refused:
        day, reason = min(refused.items())
        raise CheckError(
            reason,
            remedy=f"Correct the landing files of {day} or the declaration of source {source.name!r}, and run again: "
            "the files of a refused day are read anew.",
        )


def check_raw_days(run: Run, source: Source, days: Collection[date], files: Sequence[IngestedFile]) -> RawChecks:
    """Check days of a raw table: the expectations of those that were read, and whether rows add up."""
    table, done = source.raw_table, delivered_days(files)
    counts = {day: count for day, count in day_counts(files, days).items() if count.files}
    states = {day: state for day, state in row_states(source, counts).items() if day in done}
    expectations = raw_expectations(source)
    reports = check_nights(run.settings, table, expectations, column="event_day", states=states)
    sums = reconcile_days(run.settings, source, list(counts), files=files, run_id=run.run_id)
    return RawChecks(reports, sums)
