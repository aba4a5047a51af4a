"""Landing days and as-of dates in Dagster: the partitions of tables, their freshness policy, the date to train for."""

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta, timezone

import dagster as dg
from pydantic import Field

from assets.sources import source_asset
from forecache.base.errors import InputError
from forecache.declare import AnySource, Schedule, Served, Source
from forecache.declare.as_of import ScheduledDeclaration, first_as_of, last_as_of
from forecache.declare.schedule import WEEKDAYS
from resources.dagster_internals import ASSET_PARTITION_RANGE_END_TAG, PARTITION_NAME_TAG

_DAY = timedelta(days=1)


def daily_partitions(start: date, end: date | None) -> dg.DailyPartitionsDefinition:
    """Days from `start` to `end`, both included, in UTC; a day exists once it is over."""
    return dg.DailyPartitionsDefinition(
        start_date=start.isoformat(),
        end_date=(end + _DAY).isoformat() if end else None,
        timezone="UTC",
    )


def source_partitions(source: Source) -> dg.DailyPartitionsDefinition:
    return daily_partitions(source.start, source.end)


def pipeline_partitions(pipeline: Served) -> dg.TimeWindowPartitionsDefinition:
    return as_of_partitions(pipeline.schedule, pipeline.all_sources)


def as_of_partitions(schedule: Schedule, sources: Sequence[AnySource]) -> dg.TimeWindowPartitionsDefinition:
    """The as-of dates within the days of some sources, the first and the last included."""
    start, end = first_as_of(schedule, sources), last_as_of(schedule, sources)
    if schedule.every == "day":
        return daily_partitions(start, end)
    return dg.TimeWindowPartitionsDefinition(
        start=start.isoformat(),
        end=_end_of_windows(schedule, end),
        fmt="%Y-%m-%d",
        timezone="UTC",
        # A window of Dagster begins with the date in its name. One that begins with the date's last minute, and that
        # counts while it is open (end_offset), exists as soon as the date is over.
        cron_schedule=f"59 23 {_cron_day_fields(schedule)}",
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


def _cron_day_fields(schedule: Schedule) -> str:
    if schedule.every == "week":
        return f"* * {(WEEKDAYS.index(str(schedule.on or 'sunday')) + 1) % 7}"
    return f"{'L' if schedule.on in (None, 'last') else schedule.on} * *"


def _end_of_windows(schedule: Schedule, end: date | None) -> str | None:
    """End of the last window; None before that moment, because Dagster drops a window that its end cuts short."""
    if end is None:
        return None
    window_end = datetime.combine(schedule.first_as_of_from(end + _DAY) + _DAY, time(), timezone.utc)
    return window_end.date().isoformat() if window_end <= datetime.now(timezone.utc) else None


_RUN_H = 3


def raw_freshness(end: date | None) -> dg.FreshnessPolicy | None:
    """The policy of a source's days, or None for a source that has ended."""
    return as_of_freshness(Schedule(), end)


def nightly_freshness(pipeline: Served) -> dg.FreshnessPolicy | None:
    """The policy of a pipeline's as-of dates, or None if its data have ended."""
    return as_of_freshness(pipeline.schedule, pipeline.end)


def as_of_freshness(schedule: Schedule, end: date | None) -> dg.FreshnessPolicy | None:
    """The policy of a schedule's as-of dates, or None if the data have ended."""
    if end is not None:
        return None
    deadline = schedule.run_cron.shift_hours(_RUN_H)
    if deadline is None:  # after midnight of dates that the expression names
        return dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=schedule.longest_gap_h + _RUN_H))
    window = timedelta(hours=2 * _RUN_H)
    return dg.FreshnessPolicy.cron(deadline_cron=deadline, lower_bound_delta=window, timezone=schedule.time_zone)


class TrainingSetConfig(dg.Config):
    """Configuration of a training set."""

    as_of: str = Field("", description="As-of date (YYYY-MM-DD) to train for. Default: the newest one.")


def choose_training_night(
    declared: ScheduledDeclaration, context: dg.AssetExecutionContext, configured: str = ""
) -> date:
    """Choose the configured date, else the last of the run's partitions, else the newest as-of date."""
    from forecache.declare.as_of import newest_as_of

    tags = context.run.tags
    text = configured or tags.get(ASSET_PARTITION_RANGE_END_TAG) or tags.get(PARTITION_NAME_TAG)
    if not text:
        return newest_as_of(declared)
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InputError(f"The as-of date {text!r} is not a date.", remedy="Write it like 1998-06-30.") from None


def configured_day(text: str) -> date:
    """Parse a configured date; if it is empty, return yesterday in UTC, the last whole day of a log."""
    if not text:
        return datetime.now(timezone.utc).date() - timedelta(days=1)
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InputError(f"The configured day {text!r} is no date.", remedy="Write it like 1998-06-30.") from None
