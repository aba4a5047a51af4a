"""The days of a stream as landing files of a source."""

from dataclasses import dataclass
from datetime import date

from forecache.base.errors import SettingsError
from forecache.base.table_names import NAME
from forecache.declare.checks.fields import check_fields, check_least


@dataclass(frozen=True)
class StreamDay:
    """The events of a day in a stream's table; they become the landing file of the day.

    A day is extracted once it is over (UTC) and the stream has read everything that was in the topic then, so that an
    as-of date has all events that were streamed before it.

    Attributes:
        stream: Name of the stream whose topic has the source's events.
        late_days: Number of days after a day's end in which events of it usually still arrive. During them the day is
            extracted again, once a day (UTC); if it has more events, they replace the earlier ones. Events that arrive
            later are found by the statistics of the stream's table, and their day is extracted again, too.
        start: The first day to extract; None: the day after the stream's first commit, since the stream may have only a
            part of its first day. Files of earlier days are delivered from outside.
    """

    stream: str
    late_days: int = 2
    start: date | None = None

    def __post_init__(self) -> None:
        check_fields("`StreamDay`", self)
        if not NAME.fullmatch(self.stream):
            raise SettingsError(f"`StreamDay` has stream={self.stream!r}.", remedy="Give the name of a stream.")
        check_least("`StreamDay`", self, 0, "late_days")


def check_stream_day(owner: str, event_time: str) -> None:
    """Refuse a source whose rows are no events."""
    if not event_time:
        raise SettingsError(
            f"{owner} has `extract=StreamDay(...)` and no `event_time`.",
            remedy="Only events are streamed: name the column.",
        )
