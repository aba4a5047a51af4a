"""The partitions of the lake's tables, declared once: a source's landing days and a pipeline's as-of dates."""

from datetime import date, datetime, time, timedelta, timezone

import dagster as dg

from forecache.pipeline import Schedule, Served, Source
from forecache.pipeline.schedule import WEEKDAYS

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
    """The as-of dates of a pipeline, the first and the last included."""
    if pipeline.schedule.every == "day":
        return daily(pipeline.start, pipeline.end)
    return dg.TimeWindowPartitionsDefinition(
        start=pipeline.start.isoformat(),
        end=_end(pipeline.schedule, pipeline.end),
        fmt="%Y-%m-%d",
        timezone="UTC",
        # Dagster's windows begin with the date that they are named for. One that begins with the date's last minute,
        # and counts while it goes on, is there as soon as the date is over.
        cron_schedule=f"59 23 {_day_fields(pipeline.schedule)}",
        end_offset=1,
    )


def raw_dependencies(pipeline: Served) -> list[dg.AssetDep]:
    """The raw tables that an as-of date is made from: of them, the days since the as-of date before it."""
    if pipeline.schedule.every == "day":
        return [dg.AssetDep(source.raw_table) for source in pipeline.sources]
    mapping = dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=-1, allow_nonexistent_upstream_partitions=True)
    return [dg.AssetDep(source.raw_table, partition_mapping=mapping) for source in pipeline.sources]


def _day_fields(schedule: Schedule) -> str:
    if schedule.every == "week":
        return f"* * {(WEEKDAYS.index(str(schedule.on or 'sunday')) + 1) % 7}"
    return f"{'L' if schedule.on in (None, 'last') else schedule.on} * *"


def _end(schedule: Schedule, end: date | None) -> str | None:
    """Where the last window ends; None until then: Dagster leaves out one that an end cuts short."""
    if end is None:
        return None
    window_end = datetime.combine(schedule.following(end + _DAY) + _DAY, time(), timezone.utc)
    return window_end.date().isoformat() if window_end <= datetime.now(timezone.utc) else None
