"""The work on a source's landing files: what is extracted and ingested, and which days of its raw table are checked."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone

from forecache.base.dates import Nights
from forecache.base.settings import Settings
from forecache.declare import Source
from forecache.kit.delta.tables import table_exists, table_version
from forecache.lake.ingest.ingested_files import (
    IngestedFile,
    assume_ingested,
    delivered_days,
    files_to_ingest,
    ingested_files,
    pending_days,
)
from forecache.lake.ingest.landing import LandingFile, list_landing
from forecache.lake.quality.expectations import raw_expectations
from forecache.lake.quality.pending_files import days_to_extract
from forecache.lake.quality.raw_days import RECONCILE, day_counts, raw_verdicts, row_states
from forecache.lake.quality.verdicts import STAGE as CHECK
from forecache.lake.quality.verdicts import check_inputs

SourceStage = tuple[str, str, Sequence[date], tuple[str, ...], int | None]
"""A stage, its subject, dates, causes, and rows if they are known."""


@dataclass
class SourceWork:
    """The stages that a source would run, and why its raw table gets another version; "" if it does not."""

    stages: list[SourceStage] = field(default_factory=list)
    cause: str = ""


def find_source_work(settings: Settings, source: Source, asked: Nights | None) -> SourceWork:
    """Find what a run would do for a source, or for its `asked` landing days, and assume that its waiting files are
    ingested.
    """
    first, last = asked or (source.start, source.end or datetime.now(timezone.utc).date() - timedelta(days=1))
    work = SourceWork()
    files, verdicts, landed = (
        ingested_files(settings, source),
        raw_verdicts(settings, source),
        list_landing(settings, source),
    )
    extracted = days_to_extract(settings, source, first=first, last=last)
    correctable = {file.day for file in landed if file.day} if source.extract else verdicts.refused_days
    waiting = files_to_ingest(settings, source, landed, files, correctable=correctable)
    days = pending_days(waiting, first=first, last=last)
    chosen = [file for file in waiting if (file.day or last) in days]
    if extracted:
        work.stages.append(("extract", source.name, extracted, ("the days have no landing file",), None))
    if chosen or extracted:
        rows = _expect_rows(files, chosen, len(extracted))
        named = ", ".join(file.name for file in chosen[:3]) + (", ..." if len(chosen) > 3 else "")
        count = len(chosen) + len(extracted)
        what = f"{count} landing {'file' if count == 1 else 'files'}"
        what += f" ({named})" if named else ""
        work.cause = f"{source.raw_table} gets {what}"
        work.stages.append(("ingest", source.name, sorted({*days, *extracted}), (f"{what} not ingested yet",), rows))
        version = table_version(settings, source.raw_table) + 1 if table_exists(settings, source.raw_table) else 0
        now = datetime.now(timezone.utc)
        to_come = [LandingFile(f"extracted-{day}", day, 0, now) for day in extracted]
        new = [_assume_file(source, file, version) for file in (*chosen, *to_come)]
        assume_ingested(settings, source, new)
    _add_checks(settings, source, work, (first, last))
    return work


def _assume_file(source: Source, file: LandingFile, version: int) -> IngestedFile:
    """A landing file as it will be ingested into a version of the raw table."""
    now = datetime.now(timezone.utc)
    about = (file.size_bytes, file.modified_at, "", 1, 1, 0, None, version, now, "", "")
    return IngestedFile(source.name, file.name, file.day, *about)


def _expect_rows(known: Sequence[IngestedFile], chosen: Sequence[LandingFile], num_extracted: int) -> int:
    """Rows of files, by the rows a byte of those that were ingested, and of days by the rows of a file."""
    rows, num_bytes = sum(file.landing_rows for file in known), sum(file.size_bytes for file in known)
    a_byte = rows / num_bytes if num_bytes else 1 / 50
    a_file = rows / len(known) if known else 0.0
    return round(sum(file.size_bytes for file in chosen) * a_byte + num_extracted * a_file)


def _add_checks(settings: Settings, source: Source, work: SourceWork, span: Nights) -> None:
    """Plan the checks of days whose rows or expectations have changed, also of those that a killed run has ingested."""
    files, verdicts = ingested_files(settings, source), raw_verdicts(settings, source)
    days = {file.event_day for file in files if file.event_day and span[0] <= file.event_day <= span[1]}
    states = row_states(source, day_counts(files, days))
    read = delivered_days(files)
    expected = check_inputs({day: states[day] for day in days & read}, raw_expectations(source))
    sums, known = verdicts.sums, verdicts.checks
    add_up = {day for day in days if day in sums and sums[day].inputs == states[day] and sums[day].details["success"]}
    stale = {day for day, text in expected.items() if day not in known or known[day].inputs != text}
    causes = Counter(
        "its rows are new"
        if day not in known or known[day].inputs.split()[0] != states[day]
        else "its expectations changed"
        for day in stale
    )
    if stale:
        work.stages.append((CHECK, source.raw_table, sorted(stale), tuple(causes), None))
    if days - add_up:
        work.stages.append((RECONCILE, source.raw_table, sorted(days - add_up), ("its rows are new",), None))
