"""The days of a source that are to be extracted from a database or a stream."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta, timezone

from forecache.base.settings import Settings
from forecache.declare import Source, Static, StreamDay
from forecache.lake.ingest.ingested_files import ingested_files
from forecache.lake.ingest.landing import list_landing
from forecache.lake.ledger import last_records
from forecache.lake.sources.streams.read_progress import days_with_new_rows, first_whole_day, unread_reason

STAGE = "extract"


def days_to_extract(
    settings: Settings, source: Source, *, first: date, last: date, now: datetime | None = None
) -> list[date]:
    """The days from `first` to `last` that are to be extracted, ascending; [] for a source that is not extracted.

    These are the days without a landing file, and those for which rows may have come late. For a stream only days that
    it has read completely, and also days with rows that came later than `late_days`.
    """
    if source.extract is None:
        return []
    possible = extractable_days(source, first, last, now)
    if not possible:
        return []
    done = {file.day for file in list_landing(settings, source)}
    done |= {file.event_day for file in ingested_files(settings, source)}
    if isinstance(source.time, Static):
        return [] if done - {None} else possible
    late_days, today = source.extract.late_days, utc_today(now)
    is_streamed = isinstance(source.extract, StreamDay)
    asked = last_records(settings, STAGE, source.name) if done and (late_days or is_streamed) else {}

    def may_have_more(day: date) -> bool:
        if is_streamed and day not in asked:
            return True  # the run was killed before it recorded how much of the day it landed
        over = day + timedelta(days=1)
        asked_on = date.fromisoformat(asked[day].details["asked_on"]) if day in asked else over
        return asked_on < min(today, over + timedelta(days=late_days))

    days = [day for day in possible if day not in done or may_have_more(day)]
    if not isinstance(source.extract, StreamDay):
        return days
    looked_on = {day: date.fromisoformat(record.details["asked_on"]) for day, record in asked.items()}
    # Once a day, as within `late_days`, so that few late events do not make a day land again and again.
    landed = {
        day: int(asked[day].details["position"]) for day in {*possible} - {*days} if looked_on.get(day, today) < today
    }
    if landed:
        # Extractions of today do not count: another run may have extracted only some of the days that had more.
        since = max(looked for looked in looked_on.values() if looked < today)
        days += days_with_new_rows(settings, source.extract.stream, landed, since=since)
    return select_complete_days(settings, source.extract, sorted(days))


def extraction_delay_reason(settings: Settings, source: Source, day: date, *, now: datetime | None = None) -> str:
    """Sentence on why a past day cannot be extracted yet; "" if it can, or if no reason is known."""
    if not isinstance(source.extract, StreamDay) or day >= utc_today(now):
        return ""
    first = first_whole_day(settings, source.extract)
    if first is None:
        return f"The stream {source.extract.stream!r} has committed nothing yet."
    if day < first:
        return f"The stream {source.extract.stream!r} has no whole day before {first}."
    return unread_reason(settings, source.extract.stream, day)


def select_complete_days(settings: Settings, extract: StreamDay, days: Sequence[date]) -> list[date]:
    """Of ascending days, those that a stream has read completely."""
    first = first_whole_day(settings, extract) if days else None
    left = [day for day in days if first is not None and day >= first]
    while left and unread_reason(settings, extract.stream, left[-1]):
        left.pop()
    return left


def extractable_days(source: Source, first: date, last: date, now: datetime | None) -> list[date]:
    """Days that are over; for a snapshot only the one that has just ended."""
    newest = utc_today(now) - timedelta(days=1)
    newest = min(newest, source.end) if source.end and source.time is None else newest
    first, last = max(first, source.start), min(last, newest)
    if source.time is not None:
        is_there = last == newest and first <= last and (source.end is None or newest <= source.end)
        return [newest] if is_there else []
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def utc_today(now: datetime | None) -> date:
    return (now or datetime.now(timezone.utc)).astimezone(timezone.utc).date()
