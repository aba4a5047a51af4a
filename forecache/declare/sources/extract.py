"""A database query that writes the landing files of a source."""

import re
from dataclasses import dataclass
from datetime import date

from forecache.base.errors import SettingsError
from forecache.base.table_names import NAME
from forecache.declare.checks import check_fields, check_least, check_value
from forecache.declare.sources.column import Snapshot, Static

_PARAMETER = re.compile(r"(?<![:\w\\]):(\w+)(?!:)")
"""Parameters as SQLAlchemy's `text` finds them: `::date` is none."""


@dataclass(frozen=True)
class Query:
    """A query of a database for a day; its result becomes the landing file of the day.

    For events, a day is queried once it is over (UTC), also days of the past. For a snapshot, the whole result is the
    state of the day that has just ended; earlier states are lost. Rows without time are queried once.

    Attributes:
        database: Name of the database in FORECACHE_DATABASES, which has the URL with the password.
        sql: A SELECT that returns the source's columns; of events with the parameters `:start` and `:end`, the first
            moment of the day and that of the next one.
        table: Instead of `sql`, a table with the source's columns, such as "sales" or "shop.sales".
        batch_rows: Rows in memory at a time.
        late_days: Number of days after a day's end in which rows of it may still reach the database. In them the day is
            queried again, once a day (UTC); changed rows replace the earlier ones. Only for events.
    """

    database: str
    sql: str = ""
    table: str = ""
    batch_rows: int = 50_000
    late_days: int = 0

    def __post_init__(self) -> None:
        check_fields("`Query`", self)
        check_value("`Query`", "database", self.database, bool(self.database), "Name one of FORECACHE_DATABASES.")
        rule = "That looks like a URL; give the name that it has in FORECACHE_DATABASES."
        check_value("`Query`", "database", "a URL", "://" not in self.database, rule)
        if bool(self.sql) == bool(self.table):
            raise SettingsError(
                f"`Query` of {self.database!r} has {'both `sql` and' if self.sql else 'neither `sql` nor'} `table`.",
                remedy="Give one of them.",
            )
        check_least("`Query`", self, 1, "batch_rows")
        check_least("`Query`", self, 0, "late_days")


def check_query(owner: str, query: Query, event_time: str, time: Snapshot | Static | None) -> None:
    """Refuse a query without the parameters that the source's rows need, or with others."""
    wanted = {"start", "end"} if event_time else set[str]()
    found = set(_PARAMETER.findall(query.sql)) if query.sql else wanted
    if found != wanted:
        named = ", ".join(f":{name}" for name in sorted(found)) or "none"
        rule = "of events has :start and :end, the day's bounds" if event_time else "without event time has none"
        raise SettingsError(f"{owner} has a query with the parameters {named}.", remedy=f"A query {rule}.")
    rule = "Only rows of an event's day come late; leave it out."
    check_value(owner, "late_days", query.late_days, bool(event_time) or not query.late_days, rule)


def check_file_name(owner: str, pattern: str) -> None:
    name = extract_file_name(date(2000, 1, 1))
    if re.search(f"{pattern}$", name) is None:
        raise SettingsError(
            f"{owner} has the file pattern {pattern!r}, which the files of its extract do not match.",
            remedy=f"They are named like {name!r}: leave the pattern out.",
        )


def extract_file_name(day: date) -> str:
    return f"{day}.parquet"


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
    if not event_time:
        raise SettingsError(
            f"{owner} has `extract=StreamDay(...)` and no `event_time`.",
            remedy="Only events are streamed: name the column.",
        )
