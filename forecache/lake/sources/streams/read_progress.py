"""Reading progress of a stream: whether its table has all events of a past day."""

from collections.abc import Mapping
from datetime import date, datetime, time, timedelta, timezone

from forecache.base.settings import Settings
from forecache.base.stream_state import StreamState, read_state
from forecache.base.table_names import STREAM
from forecache.declare.sources.extract import StreamDay
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.log import active_files, open_if_exists
from forecache.kit.delta.stream_tables import HOUR, hour_of
from forecache.kit.delta.tables import open_table

_DAY, _POSITION = "event_day", "position"
_ELSEWHERE = timedelta(hours=1)
"""If the stream's state is not known here, a day is complete once a message so long after its end was read."""


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

    It has if it had no lag after the day's end, or if it has a later message of each partition that lags. The progress
    of a stream on another machine is only known from its table.
    """
    end = datetime.combine(day + timedelta(days=1), time(), timezone.utc)
    state = read_state(settings.home_path, stream)
    if state is not None and state.written_at >= end.timestamp() and state.lag_events == 0:
        return ""
    newest = _newest_message_times(settings, STREAM + stream, end)
    if state is None:
        is_read = any(at >= end + _ELSEWHERE for at in newest.values())
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
    """Days for which a stream committed rows since a date after those that landed, ascending.

    `landed` has, by day, the highest position among its landed rows.
    """
    import pyarrow.dataset as ds

    rows = (ds.field(HOUR) >= f"{since}T00") & (ds.field(_DAY) <= max(landed))
    dataset = open_dataset(open_table(settings, STREAM + stream))
    # Files are skipped by their statistics: hardly any has rows of days long past.
    newer = dataset.to_table(columns=[_DAY, _POSITION], filter=rows).group_by(_DAY).aggregate([(_POSITION, "max")])
    found = zip(newer[_DAY].to_pylist(), newer[f"{_POSITION}_max"].to_pylist(), strict=True)
    return sorted(day for day, position in found if day in landed and position > landed[day])
