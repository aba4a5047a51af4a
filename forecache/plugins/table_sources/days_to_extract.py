"""The days of a source that are to be extracted from a database, or from a stream that has read all of their events."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta, timezone

from forecache.base.settings import Settings
from forecache.base.table_names import STREAM
from forecache.declare import Source, Static, StreamDay
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.log import active_files, open_if_exists
from forecache.kit.delta.stream_tables import HOUR, hour_of
from forecache.kit.delta.tables import open_table
from forecache.lake.ingest.ingested_files import ingested_files
from forecache.lake.ingest.landing import list_landing
from forecache.lake.ledger import last_records
from forecache.stream.state import StreamState, read_state
from forecache.stream.table.writer import offsets_of

_DAY, _POSITION = "event_day", "position"
_ELSEWHERE = timedelta(hours=1)
"""If the stream's state is not known here, a day is complete once a message so long after its end was read of
each partition.
"""


def first_whole_day(settings: Settings, extract: StreamDay) -> date | None:
    """The first day for which the stream has all events; None while it has committed nothing."""
    if extract.start is not None:
        return extract.start
    delta = open_if_exists(settings, STREAM + extract.stream)
    hours = [file.partition[HOUR] for file in active_files(delta)] if delta is not None else []
    known = [hour for hour in hours if hour is not None]
    return date.fromisoformat(min(known)[:10]) + timedelta(days=1) if known else None


def unread_reason(settings: Settings, stream: str, day: date) -> str:
    """Sentence on why events of a day may be missing in a stream's table; "" once it has read beyond the day's end.

    It has if it had no lag after the day's end, or if it has a later message of each partition that lags. Without a
    bucket, the progress of a stream on another machine is only known from its table.
    """
    end = datetime.combine(day + timedelta(days=1), time(), timezone.utc)
    state = read_state(settings, stream)
    if state is not None and not state.end_offsets:
        state = None  # of an engine that could not read the topic: it knows of no lag
    if state is not None and state.written_at >= end.timestamp() and state.lag_events == 0:
        return ""
    newest = _newest_message_times(settings, STREAM + stream, end)
    if state is None:
        begun = _read_partitions(settings, stream) or set(newest)
        is_read = bool(newest) and all(each in newest and newest[each] >= end + _ELSEWHERE for each in begun)
        return "" if is_read else f"The stream {stream!r} has not read to an hour after the end of {day}."
    lagging = _lagging_partitions(state, end)
    late = sorted(each for each in lagging if each not in newest or newest[each] < end)
    if lagging and not late:
        return ""
    if state.written_at < end.timestamp():
        last = datetime.fromtimestamp(state.written_at, timezone.utc)
        return f"The stream {stream!r} has not run since {last:%Y-%m-%d %H:%M} UTC, before the end of {day}."
    partitions = ", ".join(map(str, late))
    return f"The stream {stream!r} lags: it has not read partition {partitions} to the end of {day}."


def _lagging_partitions(state: StreamState, end: datetime) -> set[int]:
    """Partitions that had uncommitted messages when the stream last wrote its state."""
    if state.written_at < end.timestamp():
        return {int(each) for each in state.end_offsets}
    return {int(each) for each, offset in state.end_offsets.items() if state.offsets.get(each, 0) < offset}


def _read_partitions(settings: Settings, stream: str) -> set[int]:
    """Partitions of which the stream's table has read anything; shards do not read theirs at the same pace."""
    delta = open_if_exists(settings, STREAM + stream)
    return {each for each, offset in offsets_of(delta, stream).items() if offset} if delta is not None else set()


def _newest_message_times(settings: Settings, table: str, end: datetime) -> dict[int, datetime]:
    """By partition, the newest message time in the first two and the last two hours that were committed since `end`."""
    delta = open_if_exists(settings, table)
    if delta is None:
        return {}
    hours = sorted({hour for file in active_files(delta) if (hour := file.partition[HOUR]) and hour >= hour_of(end)})
    some = sorted({*hours[:2], *hours[-2:]})
    if not some:
        return {}
    rows = open_dataset(delta, partitions=[(HOUR, "in", some)]).to_table(["kafka_partition", "kafka_at"])
    newest = rows.group_by("kafka_partition").aggregate([("kafka_at", "max")])
    return dict(zip(newest["kafka_partition"].to_pylist(), newest["kafka_at_max"].to_pylist(), strict=True))


def days_with_new_rows(settings: Settings, stream: str, landed: Mapping[date, int], *, since: date) -> list[date]:
    """Days for which a stream committed rows since a date after those that landed, given by their highest position."""
    import pyarrow.dataset as ds

    rows = (ds.field(HOUR) >= f"{since}T00") & (ds.field(_DAY) <= max(landed))
    dataset = open_dataset(open_table(settings, STREAM + stream))
    # Files are skipped by their statistics: hardly any has rows of days long past.
    newer = dataset.to_table(columns=[_DAY, _POSITION], filter=rows).group_by(_DAY).aggregate([(_POSITION, "max")])
    found = zip(newer[_DAY].to_pylist(), newer[f"{_POSITION}_max"].to_pylist(), strict=True)
    return sorted(day for day, position in found if day in landed and position > landed[day])


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
