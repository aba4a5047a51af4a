"""The schedule of a pipeline: its as-of dates and the times of its runs."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from functools import cached_property
from itertools import pairwise, takewhile
from typing import Literal
from zoneinfo import ZoneInfo

from forecache.base.errors import SettingsError
from forecache.declare.checks import check_fields, check_value

# No cron library is locked: Dagster bundles croniter, and the framework must not import Dagster. Nor would one suffice:
# the "once a day" rule and Dagster's moments at a change of the clock would still be written here.
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_LAST = "l"
_CHANGING_HOURS = (1, 2, 3)  # in which Dagster looks for a local time that does not exist
_MINUTE = timedelta(minutes=1)
_FARTHEST = timedelta(days=8 * 366)  # 29 February, over a century without a leap year


@dataclass(frozen=True)
class Cron:
    """A cron expression with one minute and one hour, such as "30 2 * * mon"."""

    minute: int
    hour: int
    days: frozenset[int]  # days of the month; empty: all; 0 is the last one ("L")
    months: frozenset[int]
    weekdays: frozenset[int]  # 0 is Sunday; empty: all
    day_fields: str  # the last three fields as written

    def runs_on(self, day: date) -> bool:
        if self.months and day.month not in self.months:
            return False
        is_last = (day + timedelta(days=1)).month != day.month
        if self.days:
            return day.day in self.days or (is_last and 0 in self.days)
        return not self.weekdays or day.isoweekday() % 7 in self.weekdays

    def run_moments(self, zone: tzinfo, after: datetime, *, backwards: bool = False) -> Iterator[datetime]:
        """Moments (UTC) of the runs after a moment, or `backwards` before it, at most one a local date; as Dagster's.

        If a local time occurs twice, the second; if the clock skips it, the moment at which the clock goes forward.
        """
        step = timedelta(days=-1 if backwards else 1)
        day, last = after.astimezone(zone).date() - step, None
        while last is None or abs(day - last) < _FARTHEST:
            if self.runs_on(day):
                moment = self._run_moment(day, zone)
                if moment < after if backwards else moment > after:
                    last = day
                    yield moment
            last, day = last or day, day + step

    def _run_moment(self, day: date, zone: tzinfo) -> datetime:
        local = datetime.combine(day, time(self.hour, self.minute), zone)
        late, early = (local.replace(fold=fold).astimezone(timezone.utc) for fold in (0, 1))
        if early >= late:
            return early
        if self.hour not in _CHANGING_HOURS:
            return late
        while late - early > _MINUTE:
            middle = early + (late - early) / 2
            if middle.astimezone(zone).utcoffset() == late.astimezone(zone).utcoffset():
                late = middle
            else:
                early = middle
        return late.replace(second=0, microsecond=0)

    def shift_hours(self, hours: int) -> str | None:
        """The expression for some hours later on the same dates; None if that is past midnight of specific dates."""
        hour = self.hour + hours
        if hour < 24 or self.day_fields == "* * *":
            return f"{self.minute} {hour % 24} {self.day_fields}"
        return None


def read_cron(owner: str, name: str, text: str) -> Cron:
    fields = text.lower().split()
    remedy = 'Write five fields, minute, hour, day of the month, month and weekday, such as "30 2 * * mon".'
    if len(fields) != 5:
        raise SettingsError(f"{owner} has {name}={text!r}, which is no cron expression.", remedy=remedy)
    try:
        minutes, hours = _parse_field(fields[0], 0, 59), _parse_field(fields[1], 0, 23)
        days, months = _parse_field(fields[2], 1, 31, last=True), _parse_field(fields[3], 1, 12, _MONTHS)
        weekdays = frozenset(value % 7 for value in _parse_field(fields[4], 0, 7, _DAYS))
    except ValueError as error:
        raise SettingsError(
            f"{owner} has {name}={text!r}, which is no cron expression: {error}.", remedy=remedy
        ) from None
    if len(minutes) != 1 or len(hours) != 1:
        raise SettingsError(
            f"{owner} has {name}={text!r}, which runs more often than once a day.",
            remedy="As-of dates are days, so hourly runs are not supported: give one minute and one hour.",
        )
    if days and weekdays:
        raise SettingsError(
            f"{owner} has {name}={text!r}, which names days of the month and weekdays: cron runs on either.",
            remedy="Name one of them, and write * for the other.",
        )
    cron = Cron(min(minutes), min(hours), days, months, weekdays, " ".join(text.split()[2:]))
    if next(cron.run_moments(timezone.utc, datetime(2024, 1, 1, tzinfo=timezone.utc)), None) is None:
        raise SettingsError(f"{owner} has {name}={text!r}, which never runs.", remedy="Name a date that exists.")
    return cron


def _parse_field(field: str, low: int, high: int, names: tuple[str, ...] = (), *, last: bool = False) -> frozenset[int]:
    """Parse the values of a field; empty for "*" (for minute and hour: all of them)."""
    if field == "*":
        return frozenset(range(low, high + 1)) if low == 0 and not names else frozenset()
    return frozenset(value for part in field.split(",") for value in _parse_part(part, low, high, names, last=last))


def _parse_part(part: str, low: int, high: int, names: tuple[str, ...], *, last: bool) -> Iterator[int]:
    if last and part == _LAST:
        yield 0
        return
    span, slash, step = part.partition("/")
    first, dash, end = span.partition("-")
    if span == "*":
        start, stop = low, high if high != 7 else 6
    else:
        start = _parse_number(first, low, high, names)
        stop = _parse_number(end, low, high, names) if dash else start
        if slash and not dash:
            raise ValueError(f"{part!r} has a step without a range")
    every = _parse_number(step, 1, high, ()) if slash else 1
    if stop < start:
        raise ValueError(f"{part!r} ends before it starts")
    yield from range(start, stop + 1, every)


def _parse_number(text: str, low: int, high: int, names: tuple[str, ...]) -> int:
    if text in names:
        return names.index(text) + (1 if names is _MONTHS else 0)
    if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
        raise ValueError(f"{text!r} is not a number from {low} to {high}")
    return int(text)


WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
NEVER = "never"
_DAY = timedelta(days=1)
_RUN_H = 9.0
# Two years, one of them a leap year, in which the longest gap between runs is computed.
_SEEN = (datetime(2024, 1, 1, tzinfo=timezone.utc), datetime(2026, 1, 1, tzinfo=timezone.utc))


@dataclass(frozen=True)
class Schedule:
    """The as-of dates, and the times at which Dagster starts a pipeline's jobs once their schedules are switched on.

    An as-of date ends at midnight UTC, in whatever time zone its run is scheduled. A run takes every as-of date that
    has ended since the run before it; `forecache run` takes the newest one. Monitoring starts an hour after the run.
    Hourly runs are not supported: as-of dates are days.

    Attributes:
        every: There is an as-of date every "day", "week" or "month".
        on: For "week", the weekday of the as-of date, default "sunday"; for "month", the day, 1 to 28 or "last",
            default "last"; None for "day".
        cron: Start of the nightly job: five fields, with one minute and one hour.
        time_zone: Time zone of `cron` and `training`, such as "Europe/Berlin". If the clock skips a local time, the run
            starts when the clock goes forward; if a time occurs twice, at the second.
        training: Start of the training job, as `cron`; "never": it has no schedule.
    """

    every: Literal["day", "week", "month"] = "day"
    on: str | int | None = None
    cron: str = "0 3 * * *"
    time_zone: str = "UTC"
    training: str = "0 5 * * 0"

    def __post_init__(self) -> None:
        check_fields("`Schedule`", self)
        fits, rule = {
            "day": (self.on is None, "Every day is an as-of date: leave it out, or declare every='week' or 'month'."),
            "week": (self.on in (None, *WEEKDAYS), f"Give one of {', '.join(WEEKDAYS)}."),
            "month": (
                self.on in (None, "last", *range(1, 29)) and type(self.on) is not bool,
                "Give a day from 1 to 28, or 'last'.",
            ),
        }[self.every]
        check_value("`Schedule`", "on", self.on, fits, rule)
        try:
            assert self.zone
        except (KeyError, OSError, ValueError):
            raise SettingsError(
                f"`Schedule` has time_zone={self.time_zone!r}, which is not known here.",
                remedy='Give a name such as "UTC" or "Europe/Berlin" (package tzdata, where the machine has no zones).',
            ) from None
        assert self.run_cron
        if self.training != NEVER:
            read_cron("`Schedule`", "training", self.training)

    @cached_property
    def run_cron(self) -> Cron:
        """The parsed `cron`, the start of the nightly job."""
        return read_cron("`Schedule`", "cron", self.cron)

    @cached_property
    def zone(self) -> tzinfo:
        return timezone.utc if self.time_zone == "UTC" else ZoneInfo(self.time_zone)

    @property
    def as_of_text(self) -> str:
        """The as-of dates in words: "every day", "every Sunday", "the last day of every month"."""
        if self.every == "day":
            return "every day"
        if self.every == "week":
            return f"every {str(self.on or 'sunday').capitalize()}"
        return "the last day of every month" if self.on in (None, "last") else f"day {self.on} of every month"

    def is_as_of(self, day: date) -> bool:
        if self.every == "day":
            return True
        if self.every == "week":
            return WEEKDAYS[day.weekday()] == (self.on or "sunday")
        return (day + _DAY).day == 1 if self.on in (None, "last") else day.day == self.on

    def last_as_of_until(self, day: date) -> date:
        while not self.is_as_of(day):
            day -= _DAY
        return day

    def first_as_of_from(self, day: date) -> date:
        while not self.is_as_of(day):
            day += _DAY
        return day

    def as_of_dates(self, first: date, last: date) -> Sequence[date]:
        days = (first + n * _DAY for n in range((last - first).days + 1))
        return [day for day in days if self.is_as_of(day)]

    def newest_as_of(self, moment: datetime) -> date:
        """The newest as-of date that has ended at a moment, which has a time zone."""
        return self.last_as_of_until(moment.astimezone(timezone.utc).date() - _DAY)

    def due_as_of_dates(self, moment: datetime) -> tuple[date, date]:
        """First and last as-of date of the run that starts at a moment: those since the previous run, or the newest."""
        newest = self.newest_as_of(moment)
        first = self.first_as_of_from(self.newest_as_of(self.latest_run(moment)) + _DAY)
        return min(newest, first), newest

    def latest_run(self, moment: datetime) -> datetime:
        return next(self.run_cron.run_moments(self.zone, moment, backwards=True))

    @cached_property
    def longest_age_h(self) -> float:
        """Most hours from the end of an as-of date to the run after the one that publishes it."""
        return _longest_h(
            after - datetime.combine(self.newest_as_of(run) + _DAY, time(), timezone.utc)
            for run, after in self._run_pairs()
        )

    @cached_property
    def longest_gap_h(self) -> float:
        return _longest_h(after - run for run, after in self._run_pairs())

    def _run_pairs(self) -> Iterator[tuple[datetime, datetime]]:
        """Each run of the two years `_SEEN` with the next one."""
        return pairwise(takewhile(lambda run: run < _SEEN[1], self.run_cron.run_moments(self.zone, _SEEN[0])))

    @property
    def max_age_h(self) -> float:
        """Hours after which an answer is stale, unless `Publish` sets them: 9 after the latest start of the next run.

        36 for the default schedule, 180 for a week (its run on the day after), 756 for a month.
        """
        return self.longest_age_h + _RUN_H


def _longest_h(spans: Iterable[timedelta]) -> float:
    return max((span.total_seconds() / 3600 for span in spans), default=2 * 366 * 24.0)
