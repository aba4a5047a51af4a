"""What landed and waits to be ingested, and the runs of days that would do it."""

from collections.abc import Collection
from datetime import date, timedelta

from forecache.lake.ingested import ingested_files
from forecache.lake.landing import LandingFile, list_landing
from forecache.pipeline import Source
from forecache.settings import Settings


def pending_files(settings: Settings, source: Source) -> list[LandingFile]:
    """Files that were not ingested, and those that look different from when they were; by name."""
    known = {file.file: file for file in ingested_files(settings, source)}
    return [
        file
        for file in list_landing(settings, source)
        if file.name not in known
        or (file.size_bytes, file.modified_at) != (known[file.name].size_bytes, known[file.name].modified_at)
    ]


def new_files(settings: Settings, source: Source) -> list[LandingFile]:
    """Files that were never ingested, by name."""
    known = {file.file for file in ingested_files(settings, source)}
    return [file for file in list_landing(settings, source) if file.name not in known]


def pending_days(files: Collection[LandingFile], *, first: date, last: date) -> set[date]:
    """The days from `first` to `last` on which something waits; files whose name has no day go with the last one."""
    days = {file.day or last for file in files}
    return {day for day in days if first <= day <= last}


def day_ranges(days: Collection[date]) -> list[tuple[date, date]]:
    """Consecutive days as (first, last), ascending."""
    ranges: list[tuple[date, date]] = []
    for day in sorted(set(days)):
        if ranges and day - ranges[-1][1] == timedelta(days=1):
            ranges[-1] = (ranges[-1][0], day)
        else:
            ranges.append((day, day))
    return ranges
