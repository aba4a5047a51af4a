"""Days of a raw table: whether every landing row is in exactly one of the raw and the quarantine table, and verdicts.

Nothing is built from a day that failed a check. A verdict is in the stage ledger, and current as long as the day's
files, its rows and the expectations are the ones that were checked.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import pyarrow.compute as pc
import pyarrow.parquet as pq

from forecache.base.settings import Settings
from forecache.declare import Source
from forecache.kit.delta.errors import open_data_file
from forecache.kit.delta.files import place_of
from forecache.kit.delta.log import active_files
from forecache.kit.delta.tables import open_table, table_exists
from forecache.lake.ingest.ingested_files import IngestedFile, delivered_days, ingested_files
from forecache.lake.ledger import StageRecord, last_records_of_stages
from forecache.lake.quality.expectations import raw_expectations
from forecache.lake.quality.validate import CheckReport
from forecache.lake.quality.verdicts import STAGE as CHECK
from forecache.lake.quality.verdicts import check_inputs, has_passed
from forecache.lake.stage_runner import Stage, StageOutcome


@dataclass(frozen=True)
class Reconciliation:
    """Counts of a day's landing rows, and of the same rows in the raw and quarantine tables."""

    files: int
    landing: int
    raw: int
    quarantine: int  # without those about whole files
    files_in_quarantine: int  # those that could not be read at all
    mismatches: tuple[str, ...]  # a sentence for each file that does not add up

    @property
    def success(self) -> bool:
        return not self.mismatches

    @property
    def sentence(self) -> str:
        if self.mismatches:
            return f"{len(self.mismatches)} of {self.files} files do not add up: {self.mismatches[0]}"
        return (
            f"{self.landing:,} landing rows of {self.files:,} files = {self.raw:,} raw + "
            f"{self.quarantine:,} quarantined; {self.files_in_quarantine} unreadable files are quarantined whole."
        )


@dataclass(frozen=True)
class DayCounts:
    """Counts of one day's landing files; `raw_version` is the Delta version that wrote the last of its raw rows."""

    files: int = 0
    landing: int = 0
    raw: int = 0
    quarantine: int = 0
    raw_version: int = -1


def day_counts(files: Iterable[IngestedFile], days: Collection[date]) -> dict[date, DayCounts]:
    """Counts by day as ingestion recorded them; zeros for a day without files. `files` come oldest first."""
    counts = dict.fromkeys(sorted(days), DayCounts())
    for file in {file.file: file for file in files}.values():
        if file.event_day in counts:
            before = counts[file.event_day]
            counts[file.event_day] = DayCounts(
                files=before.files + 1,
                landing=before.landing + file.landing_rows,
                raw=before.raw + file.raw_rows,
                quarantine=before.quarantine + file.quarantined_rows,
                raw_version=max(before.raw_version, file.raw_version),
            )
    return counts


def reconcile(
    settings: Settings, source: Source, days: Collection[date], *, ingested: Sequence[IngestedFile] | None = None
) -> dict[date, Reconciliation]:
    """Count the rows of each day's ingested files in the present raw and quarantine tables."""
    ingested = ingested_files(settings, source) if ingested is None else ingested
    files = {file.file: file for file in ingested if file.event_day in days}
    raw = _rows_by_file(settings, source.raw_table, days={f.event_day for f in files.values() if f.event_day})
    quarantine = _rows_by_file(settings, source.quarantine_table)
    by_day: dict[date, list[IngestedFile]] = {day: [] for day in sorted(days)}
    for file in files.values():
        if file.event_day:
            by_day[file.event_day].append(file)
    return {day: _reconcile_day(source, of_day, raw, quarantine) for day, of_day in by_day.items()}


def _reconcile_day(
    source: Source, files: Sequence[IngestedFile], raw: Counter[str], quarantine: Counter[str]
) -> Reconciliation:
    mismatches = [
        f"{f.file} has {f.landing_rows:,} rows, of which {raw[f.file]:,} are in {source.raw_table} and "
        f"{quarantine[f.file]:,} in {source.quarantine_table}."
        for f in files
        if f.landing_rows != raw[f.file] + quarantine[f.file]
    ]
    return Reconciliation(
        files=len(files),
        landing=sum(f.landing_rows for f in files),
        raw=sum(raw[f.file] for f in files),
        quarantine=sum(quarantine[f.file] for f in files),
        files_in_quarantine=sum(f.error is not None for f in files),
        mismatches=tuple(mismatches),
    )


def _rows_by_file(settings: Settings, table: str, *, days: Collection[date] | None = None) -> Counter[str]:
    """Rows of each landing file in a table, in some partitions or all; line 0, about a whole file, does not count."""
    counts: Counter[str] = Counter()
    if days is not None and not days or not table_exists(settings, table):
        return counts
    filesystem = place_of(settings, table).open()
    wanted = None if days is None else {day.isoformat() for day in days}
    for file in active_files(open_table(settings, table)):
        if wanted is not None and file.partition["event_day"] not in wanted:
            continue
        with open_data_file(filesystem, file.path, table) as source:
            for batch in pq.ParquetFile(source).iter_batches(columns=["source_file", "source_line"], use_threads=False):
                of_lines = batch.column("source_file").filter(pc.greater(batch.column("source_line"), 0))
                for value in of_lines.value_counts().to_pylist():
                    counts[value["values"]] += value["counts"]
    return counts


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
        checks = {day for day, row in self.checks.items() if day and not has_passed(row)}
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
                is_bad = check is not None and day in read and not has_passed(check)
                found[day] = CheckReport.from_dict(check.details).sentence if check is not None and is_bad else ""
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
    table = source.raw_table
    stage = Stage(settings, RECONCILE, table, run_id)
    found = reconcile(settings, source, days, ingested=files)
    done = {
        day: StageOutcome(outcome.landing, {"success": outcome.success, "sentence": outcome.sentence}, table)
        for day, outcome in found.items()
    }
    states = row_states(source, day_counts(files, days))
    stage.record_changes(states, done, time.perf_counter() - stage.started)
    return found
