"""Advice on the number of readers, from their requests in flight at the busiest times."""

import math

from forecache.lake.costs import REPLICA
from forecache.operations.advice.advice import Advice, saving
from forecache.operations.autoscale.hpa import Hpa
from forecache.operations.cost.replicas import ask, use_of_readers
from forecache.settings import Settings

_LEAST = 2
"""Least number of readers: one may be replaced while the other answers."""


def reader_advice(settings: Settings, days: float) -> list[Advice]:
    """Advice on the number of readers, by the busiest five minutes and the mean load; none without Prometheus."""
    if not settings.prometheus_url:
        return []
    use, target = use_of_readers(settings, days), Hpa().target * settings.reader_workers
    if not use.replicas:
        return []
    window = f"{round(days * 1440)}m"
    in_flight = "sum(rate(forecache_reader_in_flight_seconds_total[5m]))"
    peak = ask(settings.prometheus_url, f"max_over_time({in_flight}[{window}:1m])")
    mean = ask(settings.prometheus_url, f"avg_over_time({in_flight}[{window}:1m])")
    needed, usually = (max(_LEAST, math.ceil(each / target - 1e-9)) for each in (peak, mean))
    figures = (
        f"{use.replicas:.1f} readers ran, with {mean:.2g} requests in flight on the average and {peak:.2g} in the "
        f"busiest five minutes; at {target:g} a reader that takes {usually} and {needed}."
    )
    if needed > use.replicas + 0.5:
        return [Advice("readers", f"at least {needed} readers at the busiest times", figures)]
    found = []
    hours = 24 * (use.replicas - needed)
    if hours >= 24:
        found.append(
            saving(settings, "readers", f"{needed} readers", figures, hours, "replica-hours", priced_by=REPLICA)
        )
    elif usually < needed:
        why = f"{figures} `forecache simulate autoscale` shows what a day would miss."
        hours = 24 * (use.replicas - usually)
        found.append(
            saving(settings, "readers", f"deploy/kubernetes/hpa.yaml from {usually} readers on", why, hours,
                   "replica-hours", priced_by=REPLICA)
        )  # fmt: skip
    return found
