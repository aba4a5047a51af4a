"""The table of ingested landing files, what follows from it (delivered days, snapshots), and what is pending."""

from bisect import bisect
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from operator import itemgetter

import pyarrow as pa

from forecache.base.errors import InputError, NotYetError
from forecache.base.settings import Settings
from forecache.base.steps import is_looking, look_once
from forecache.declare import Source, Static, StreamDay
from forecache.kit.delta.commit import Change, TableState, commit
from forecache.kit.delta.small_tables import prepare_upsert, read_small_table, row_schema, small_table_target
from forecache.lake.ingest.landing import (
    LandingFile,
    cached_checksum,
    list_landing,
    open_landing,
    read_checksum,
    source_uri,
)
from forecache.lake.ingest.row_count import count_rows

FILES_TABLE = "ingested_files"


@dataclass(frozen=True)
class IngestedFile:
    """A row of `ingested_files`; a file that is quarantined as a whole has no rows."""

    source: str
    file: str
    event_day: date | None
    size_bytes: int
    modified_at: datetime
    sha256: str
    landing_rows: int  # counted from the file's bytes, without judging them
    raw_rows: int
    quarantined_rows: int
    error: str | None  # why the whole file is in quarantine
    raw_version: int  # of the raw table that holds its rows
    ingested_at: datetime
    run_id: str
    code_version: str


def ingested_files(settings: Settings, source: Source) -> list[IngestedFile]:
    """The ingested files of a source, oldest first."""

    def read() -> list[IngestedFile]:
        rows = read_small_table(settings, FILES_TABLE, [("source", "=", source.name)])
        return [IngestedFile(**row) for row in sorted(rows, key=itemgetter("ingested_at", "file"))]

    return look_once((FILES_TABLE, settings.lake_uri, source.name), read)


def assume_ingested(settings: Settings, source: Source, files: Iterable[IngestedFile]) -> None:
    """Let a process that only looks find these files as ingested, in place of those of the same names."""
    assert is_looking()
    known, new = ingested_files(settings, source), {file.file: file for file in files}
    known[:] = [*(file for file in known if file.file not in new), *new.values()]


def record_files(
    settings: Settings, files: Sequence[IngestedFile], *, require: Callable[[], None] = lambda: None
) -> None:
    """Write rows to `ingested_files` in place of those of the same files; `require` raises to stop an attempt."""
    rows = pa.Table.from_pylist([vars(file) for file in files], schema=row_schema(IngestedFile))

    def decide(state: TableState) -> Change:
        require()
        return prepare_upsert(settings, FILES_TABLE, state, rows, key=("source", "file"))

    commit(small_table_target(settings, FILES_TABLE, rows.schema), decide)


def delivered_days(files: Iterable[IngestedFile]) -> set[date]:
    """The days with at least one landing file that was read."""
    return {file.event_day for file in files if file.error is None and file.event_day}


def require_days(
    settings: Settings, source: Source, nights: Collection[date], *, files: Sequence[IngestedFile] | None = None
) -> None:
    """Refuse nights whose day has no readable landing file, according to the source's `missing`: InputError, or
    NotYetError if the source waits and the day has no file at all.
    """
    files = ingested_files(settings, source) if files is None else files
    read = delivered_days(files)
    if source.missing == "last" or isinstance(source.time, Static):
        nights = [night for night in nights if not _has_substitute(source, read, night)]
    for night in sorted(nights):
        if night in read:
            continue
        broken = [file for file in files if file.event_day == night and file.error]
        if broken:
            remedy = f"Land a corrected file for {night} under a new name and run again."
            if source.extract is not None:
                remedy = f"Correct the database, and extract it again: `forecache ingest --date {night} --rebuild`."
            raise InputError(
                f"The landing file {broken[0].file!r} of source {source.name!r} is in quarantine: {broken[0].error}.",
                remedy=remedy,
            )
        waiting = [file.name for file in list_landing(settings, source) if file.day == night]
        if waiting:
            raise InputError(
                f"The landing file {waiting[0]!r} of source {source.name!r} has not been ingested.",
                remedy=f"Run `forecache ingest`, or switch on the sensor {source.name}_landed.",
            )
        if source.missing == "wait":
            raise NotYetError(
                f"As-of date {night} waits: source {source.name!r} has not delivered that day yet.",
                remedy=f"Run again when a file for it is in {source_uri(settings, source)}.",
            )
        if source.extract is not None:
            raise InputError(
                f"As-of date {night} is empty: source {source.name!r} was not extracted for that day.",
                remedy=_extract_remedy(source),
            )
        raise InputError(
            f"As-of date {night} is empty: source {source.name!r} has no landing file for that day.",
            remedy=f"Land a file for {night} in {source_uri(settings, source)} (only a header if nothing happened).",
        )


def _extract_remedy(source: Source) -> str:
    if isinstance(source.extract, StreamDay):
        stream = source.extract.stream
        return f"Run `forecache ingest` once the stream {stream!r} has read the day; `forecache streams` says more."
    if source.time is not None:
        return "Run `forecache ingest`; of a snapshot, only the day that has just ended can be."
    return "Run `forecache ingest` once the day is over."


def _has_substitute(source: Source, read: Collection[date], night: date) -> bool:
    """Return whether another delivery counts for a night without one: an earlier one, or any if rows have no time."""
    return bool(read) and (isinstance(source.time, Static) or min(read) <= night)


def state_file(source: Source, files: Iterable[IngestedFile], night: date) -> IngestedFile | None:
    """The file of a snapshot, or of rows without time, that is valid on a night: of several of a day the one ingested
    last, as copies have other times, and among files of one ingestion the one with the latest file time.
    """
    usable = [
        (file.event_day, file.ingested_at, file.modified_at, file.file, file)
        for file in files
        if file.error is None and file.event_day and (isinstance(source.time, Static) or file.event_day <= night)
    ]
    return max(usable)[-1] if usable else None


def last_raw_version(
    settings: Settings, source: Source, night: date, *, files: list[IngestedFile] | None = None
) -> int:
    """The raw table's last Delta version that changed a day up to the night; -1 if there is none.

    A late file raises it, by which the nights that it changes become stale; so does one without rows, which may have
    replaced some.
    """
    files = ingested_files(settings, source) if files is None else files
    versions = (file.raw_version for file in files if file.event_day and file.event_day <= night)
    return max(versions, default=-1)


def pending_files(
    settings: Settings, source: Source, *, landed: Sequence[LandingFile] | None = None
) -> list[LandingFile]:
    """Files that were not ingested, and those whose content has changed since; by name."""
    known = {file.file: file for file in ingested_files(settings, source)}
    landed = list_landing(settings, source) if landed is None else landed
    return [file for file in landed if file.name not in known or has_changed(settings, source, file, known[file.name])]


def files_to_ingest(
    settings: Settings,
    source: Source,
    landed: Iterable[LandingFile],
    ingested: Iterable[IngestedFile],
    *,
    correctable: Collection[date] = (),
) -> list[LandingFile]:
    """Files that were never ingested, and for correctable days also those that were landed again since.

    An extracted file has to differ in content, as all days of a database are correctable and features may be built from
    them. Nothing is built from the refused days of other sources: their files are read again if their time differs.
    """
    known = {file.file: file for file in ingested}

    def is_landed_again(file: LandingFile) -> bool:
        before = known[file.name]
        return looks_different(file, before) if source.extract is None else has_changed(settings, source, file, before)

    return [file for file in landed if file.name not in known or (file.day in correctable and is_landed_again(file))]


def looks_different(file: LandingFile, known: IngestedFile) -> bool:
    """Compare a file with what was ingested, by size and time only."""
    return (file.size_bytes, file.modified_at) != (known.size_bytes, known.modified_at)


def has_changed(settings: Settings, source: Source, file: LandingFile, known: IngestedFile) -> bool:
    """Compare a file with what was ingested, by content: copies and restored files have other times alone."""
    if not looks_different(file, known):
        return False
    return file.size_bytes != known.size_bytes or cached_checksum(settings, source, file) != known.sha256


def pending_days(files: Collection[LandingFile], *, first: date, last: date) -> set[date]:
    """The days of files, from `first` to `last`; files whose name has no day count for the last one."""
    days = {file.day or last for file in files}
    return {day for day in days if first <= day <= last}


def day_ranges(days: Collection[date], *, others: Collection[date | None] = ()) -> list[tuple[date, date]]:
    """Group days to ranges (first, last), ascending: as few as possible, none of which contains one of `others`."""
    apart = sorted({day for day in others if day} - {*days})
    ranges: list[tuple[date, date]] = []
    for day in sorted(set(days)):
        if ranges and bisect(apart, ranges[-1][1]) == bisect(apart, day):
            ranges[-1] = (ranges[-1][0], day)
        else:
            ranges.append((day, day))
    return ranges


def find_copies(
    settings: Settings, source: Source, files: Sequence[LandingFile], ingested: Sequence[IngestedFile]
) -> dict[str, str]:
    """Find files with the same bytes as another of their day, with the reason to refuse them; the first by name stays.

    Files without rows may be equal. Only files of the same size as another one of their day are read.
    """
    seen: dict[tuple[date, int], dict[str, str]] = {}
    for known in ingested:
        if known.event_day and known.error is None:
            seen.setdefault((known.event_day, known.size_bytes), {})[known.sha256] = known.file
    sizes = Counter((file.day, file.size_bytes) for file in files)
    copies = {}
    for file in sorted(files, key=lambda file: file.name):
        if file.day is None or ((file.day, file.size_bytes) not in seen and sizes[file.day, file.size_bytes] == 1):
            continue
        sha256, like = read_checksum(settings, source, file.name), seen.setdefault((file.day, file.size_bytes), {})
        if sha256 in like and _has_rows(settings, source, file.name):
            copies[file.name] = f"it is a copy of {like[sha256]!r}, a file of the same day"
        like.setdefault(sha256, file.name)
    return copies


def _has_rows(settings: Settings, source: Source, name: str) -> bool:
    with open_landing(source_uri(settings, source), settings.storage_options, name) as stream:
        try:
            return count_rows(stream, name.rsplit(".", 1)[-1]) > 0
        except (InputError, ValueError, OSError):
            return False
