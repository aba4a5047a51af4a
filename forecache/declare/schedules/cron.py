"""Parse and check cron expressions of at most one run a day, and compute the moments of their runs."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo

from forecache.base.errors import SettingsError

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
    """A cron expression with one minute and one hour, such as "30 2 * * mon".

    Attributes:
        days: Days of the month; empty: all; 0 is the last one ("L").
        weekdays: 0 is Sunday; empty: all.
        day_fields: The last three fields as written.
    """

    minute: int
    hour: int
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    day_fields: str

    def runs_on(self, day: date) -> bool:
        """True if there is a run on a local date."""
        if self.months and day.month not in self.months:
            return False
        is_last = (day + timedelta(days=1)).month != day.month
        if self.days:
            return day.day in self.days or (is_last and 0 in self.days)
        return not self.weekdays or day.isoweekday() % 7 in self.weekdays

    def run_moments(self, zone: tzinfo, after: datetime, *, backwards: bool = False) -> Iterator[datetime]:
        """Moments (UTC) of the runs after a moment, or `backwards` before it, at most one a local date.

        They are those of Dagster: if a local time occurs twice, the second; if the clock skips it, the moment at which
        the clock goes forward.
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
    """Parse a cron expression.

    Raises:
        SettingsError: It is no cron expression, never runs, or runs more often than once a day.
    """
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
