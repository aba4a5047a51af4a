"""Reconciliation: every landing row is in exactly one of the raw and the quarantine table."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from forecache.base.settings import Settings
from forecache.declare import Source
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_table, table_exists
from forecache.lake.ingest.ingested_files import IngestedFile, ingested_files


@dataclass(frozen=True)
class Reconciliation:
    """Counts of a day's landing rows, and of the same rows in the raw and quarantine tables.

    Attributes:
        raw: Rows of these files in the raw table.
        quarantine: Rows of these files in the quarantine table, without those about whole files.
        files_in_quarantine: Files that could not be read at all.
        mismatches: A sentence for each file that does not add up.
    """

    files: int
    landing: int
    raw: int
    quarantine: int
    files_in_quarantine: int
    mismatches: tuple[str, ...]

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
    """Count the rows of each day's ingested files in the present raw and quarantine tables.

    Args:
        ingested: The source's ingested files; None: read them.
    """
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
    import pyarrow.compute as pc

    partitions = None if days is None else [("event_day", "in", sorted(day.isoformat() for day in days))]
    dataset = open_dataset(open_table(settings, table), partitions=partitions)
    for batch in dataset.scanner(columns=["source_file"], filter=pc.field("source_line") > 0).to_batches():
        for value in batch.column("source_file").value_counts().to_pylist():
            counts[value["values"]] += value["counts"]
    return counts
