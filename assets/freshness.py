"""One freshness policy for all assets: the output of a run exists three hours after its schedule starts it."""

from datetime import date, timedelta

import dagster as dg

from forecache.pipeline import Schedule, Served

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
    deadline = schedule.runs.later(_RUN_H)
    if deadline is None:  # after midnight of dates that the expression names
        return dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=schedule.longest_gap_h + _RUN_H))
    window = timedelta(hours=2 * _RUN_H)
    return dg.FreshnessPolicy.cron(deadline_cron=deadline, lower_bound_delta=window, timezone=schedule.time_zone)
