"""One freshness policy for all: last night's data are there by six in the morning, UTC."""

from datetime import date, timedelta

import dagster as dg

DEADLINE_CRON = "0 6 * * *"


def nightly_freshness(end: date | None) -> dg.FreshnessPolicy | None:
    """The policy, or None for data that have ended: they are never going to be fresh again."""
    if end is not None:
        return None
    return dg.FreshnessPolicy.cron(deadline_cron=DEADLINE_CRON, lower_bound_delta=timedelta(hours=6))
