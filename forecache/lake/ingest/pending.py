"""Landing files that are still to be ingested, copies among them, and the ranges of days that ingest them."""

from bisect import bisect
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from datetime import date

from forecache.base.errors import InputError
from forecache.base.settings import Settings
from forecache.declare import Source
from forecache.lake.ingest.ingested_files import IngestedFile, ingested_files
from forecache.lake.ingest.landing import (
    LandingFile,
    cached_checksum,
    list_landing,
    open_landing,
    read_checksum,
    source_uri,
)
from forecache.lake.ingest.row_count import count_rows


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
    """Find files that have the same bytes as another file of their day, with the reason to refuse them.

    Of copies that land together, the first by name is accepted. Files without rows may be equal. Only files of the same
    size as another one of their day are read.
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
