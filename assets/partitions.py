"""Landing days and as-of dates in Dagster: the partitions of tables, their freshness policy, the date to train for."""

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta, timezone

import dagster as dg

from assets.table import source_asset
from forecache.pipeline import AnySource, Schedule, Served, Source
from forecache.pipeline.schedules.as_of import first_as_of, last_as_of
from forecache.pipeline.schedules.schedule import WEEKDAYS

_DAY = timedelta(days=1)


def daily(start: date, end: date | None) -> dg.DailyPartitionsDefinition:
    """Days from `start` to `end`, both included, in UTC; a day exists once it is over."""
    return dg.DailyPartitionsDefinition(
        start_date=start.isoformat(),
        end_date=(end + _DAY).isoformat() if end else None,
        timezone="UTC",
    )


def source_partitions(source: Source) -> dg.DailyPartitionsDefinition:
    return daily(source.start, source.end)


def pipeline_partitions(pipeline: Served) -> dg.TimeWindowPartitionsDefinition:
    return as_of_partitions(pipeline.schedule, pipeline.all_sources)


def as_of_partitions(schedule: Schedule, sources: Sequence[AnySource]) -> dg.TimeWindowPartitionsDefinition:
    """The as-of dates within the days of some sources, the first and the last included."""
    start, end = first_as_of(schedule, sources), last_as_of(schedule, sources)
    if schedule.every == "day":
        return daily(start, end)
    return dg.TimeWindowPartitionsDefinition(
        start=start.isoformat(),
        end=_end(schedule, end),
        fmt="%Y-%m-%d",
        timezone="UTC",
        # A window of Dagster begins with the date in its name. One that begins with the date's last minute, and that
        # counts while it is open (end_offset), exists as soon as the date is over.
        cron_schedule=f"59 23 {_day_fields(schedule)}",
        end_offset=1,
    )


def source_dependencies(schedule: Schedule, sources: Sequence[AnySource]) -> list[dg.AssetDep]:
    """The inputs of an as-of date: the days of raw tables since the previous as-of date, and existing tables."""
    if schedule.every == "day":
        return [dg.AssetDep(source_asset(source)) for source in sources]
    mapping = dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=-1, allow_nonexistent_upstream_partitions=True)
    return [
        dg.AssetDep(source_asset(source), partition_mapping=mapping if isinstance(source, Source) else None)
        for source in sources
    ]


def _day_fields(schedule: Schedule) -> str:
    if schedule.every == "week":
        return f"* * {(WEEKDAYS.index(str(schedule.on or 'sunday')) + 1) % 7}"
    return f"{'L' if schedule.on in (None, 'last') else schedule.on} * *"


def _end(schedule: Schedule, end: date | None) -> str | None:
    """End of the last window; None before that moment, because Dagster drops a window that its end cuts short."""
    if end is None:
        return None
    window_end = datetime.combine(schedule.following(end + _DAY) + _DAY, time(), timezone.utc)
    return window_end.date().isoformat() if window_end <= datetime.now(timezone.utc) else None
