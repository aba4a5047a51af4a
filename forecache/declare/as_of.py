"""The as-of dates of a declaration: its schedule within the days of its sources."""

from collections.abc import Collection, Sequence
from datetime import date, datetime, timezone
from typing import Protocol

from forecache.base.errors import InputError, SettingsError
from forecache.declare.policies import Publish
from forecache.declare.schedule import Schedule
from forecache.declare.sources.source import AnySource, first_day


class DatedDeclaration(Protocol):
    """A declaration with a first and a last as-of date; `end` is None if it has no last one."""

    @property
    def name(self) -> str: ...
    @property
    def start(self) -> date: ...
    @property
    def end(self) -> date | None: ...


class ScheduledDeclaration(DatedDeclaration, Protocol):
    """A declaration that runs by a schedule, for its as-of dates, after its sources were ingested."""

    @property
    def schedule(self) -> Schedule: ...
    @property
    def all_sources(self) -> tuple[AnySource, ...]: ...


def first_as_of(schedule: Schedule, sources: Sequence[AnySource]) -> date:
    return schedule.first_as_of_from(first_day(sources))


def last_as_of(schedule: Schedule, sources: Sequence[AnySource]) -> date | None:
    end = min((source.end for source in sources if source.end), default=None)
    return end and schedule.last_as_of_until(end)


def due_as_of_dates(pipeline: ScheduledDeclaration, moment: datetime) -> tuple[date, date]:
    """First and last as-of date of the scheduled run at a moment, within the pipeline's dates."""
    first, last = pipeline.schedule.due_as_of_dates(moment)
    last = min(last, pipeline.end or last)
    return min(last, max(first, pipeline.start)), last


def check_schedule(owner: str, schedule: Schedule, sources: Sequence[AnySource], publish: Publish | None) -> None:
    """Refuse a schedule without an as-of date in the sources' days, or under which answers are stale between runs."""
    start, end = first_as_of(schedule, sources), last_as_of(schedule, sources)
    if end is not None and end < start:
        raise SettingsError(
            f"{owner} has no as-of date: its schedule has {schedule.as_of_text}, and its sources end before {start}.",
            remedy="Correct the schedule, or the start and end of the sources.",
        )
    limit = publish.max_age_h if publish else None
    if limit is not None and schedule != Schedule() and limit < schedule.longest_age_h:
        raise SettingsError(
            f"{owner} has publish.max_age_h={limit:g}, and answers are up to {schedule.longest_age_h:g} hours old when "
            f"the next run starts ({schedule.as_of_text}, {schedule.cron!r} in {schedule.time_zone}).",
            remedy=f"Leave it out, which gives {schedule.max_age_h:g}, or give more.",
        )


def newest_as_of(pipeline: ScheduledDeclaration, now: datetime | None = None) -> date:
    """The newest as-of date that has ended by `now`, with a time zone; if the sources have ended, their last one."""
    newest = pipeline.schedule.newest_as_of(now or datetime.now(timezone.utc))
    return min(newest, pipeline.end) if pipeline.end else newest


def require_within(declared: DatedDeclaration, days: Collection[date]) -> None:
    if not days:
        raise InputError(f"No date was given for {declared.name!r}.", remedy="Give at least one.")
    for day in (min(days), max(days)):
        if day < declared.start or (declared.end and day > declared.end):
            raise InputError(
                f"The date {day} lies outside {declared.name!r}.",
                remedy=f"Its dates go from {declared.start} to {declared.end or 'yesterday'}.",
            )


def require_as_of(pipeline: ScheduledDeclaration, days: Collection[date]) -> None:
    """Refuse days outside the pipeline's dates, and days that are no as-of date of it."""
    require_within(pipeline, days)
    for day in sorted(days):
        if not pipeline.schedule.is_as_of(day):
            before, after = pipeline.schedule.last_as_of_until(day), pipeline.schedule.first_as_of_from(day)
            near = [near for near in (before, after) if pipeline.start <= near <= (pipeline.end or near)]
            raise InputError(
                f"The date {day} is no as-of date of {pipeline.name!r}, which has {pipeline.schedule.as_of_text}.",
                remedy=f"Give {' or '.join(map(str, near))}.",
            )


def as_of_range(pipeline: ScheduledDeclaration, first: date, last: date) -> tuple[date, date]:
    """The first and the last as-of date from `first` to `last`, both of which have ended."""
    dates = pipeline.schedule.as_of_dates(first, last)
    found = (dates[0], dates[-1]) if dates else (first, last)
    newest = newest_as_of(pipeline)
    for day in found if dates or first < pipeline.start or last > newest else ():
        if not pipeline.start <= day <= newest:
            raise InputError(
                f"The date {day} lies outside {pipeline.name!r}.",
                remedy=f"Its dates go from {pipeline.start} to {newest}.",
            )
    require_as_of(pipeline, found)
    return found
