"""A stream as where the landing files of a source come from."""

from dataclasses import dataclass
from datetime import date

from forecache.errors import SettingsError
from forecache.names import NAME
from forecache.pipeline.checks.checking import check_fields, check_least


@dataclass(frozen=True)
class StreamDay:
    """The events of a day that a stream has in its table; they become the landing file of the day.

    A day is taken once it is over (UTC) and the stream has read everything that was in the topic then, so that a night
    has all that was streamed before it.

    Attributes:
        stream: Name of the stream, whose topic has the source's events.
        late_days: How many days after a day's end events of it usually still come. So long the day is taken again, once
            a day (UTC); where it has more events, they take the place of those before. Events that come later are
            noticed by the statistics of the stream's table, and make their day land again too.
        start: The first day to take; None: the day after that of the stream's first commit, since of its first day the
            stream may have a part only. Days before land as files from elsewhere.
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
    """Refuse a source whose rows are no events.

    Raises:
        SettingsError: With source and remedy.
    """
    if not event_time:
        raise SettingsError(
            f"{owner} has `extract=StreamDay(...)` and no `event_time`.",
            remedy="Only events are streamed: name the column.",
        )
