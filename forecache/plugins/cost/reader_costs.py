"""Cost of readers: replica-hours and answers, from Prometheus if it scrapes them, else from the settings."""

import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from forecache.base.errors import UnavailableError
from forecache.base.prices import REPLICA
from forecache.base.settings import Settings
from forecache.plugins.cost.cost_line import CostLine, hourly_line

STEP_S = 60
"""Interval of the counts of readers."""
_DAY_S = 86_400
_TIMEOUT_S = 30.0
_ROUTES = "one|many|feast|realtime"


@dataclass(frozen=True)
class ReaderUse:
    """Use of the readers.

    Attributes:
        replicas: Mean number of running readers; None if it is not known.
        answers: Answered requests a day; None if they are not known.
        basis: Origin of both.
    """

    replicas: float | None
    answers: float | None
    basis: str


def use_of_readers(settings: Settings, days: float) -> ReaderUse:
    """Use of the readers, from Prometheus if `FORECACHE_PROMETHEUS_URL` is set, or by `FORECACHE_READER_REPLICAS`."""
    if settings.prometheus_url:
        window = f"{round(days * _DAY_S)}s"
        # A mean over the steps would leave out those before the first scrape, in which no reader ran: sum and divide.
        steps = f"sum_over_time((count(forecache_reader_workers) or vector(0))[{window}:{STEP_S}s])"
        answers = f'sum(increase(forecache_reader_requests_total{{route=~"{_ROUTES}",status=~"2..|404"}}[{window}]))'
        steps_of_readers, count = (
            query_prometheus(settings.prometheus_url, steps),
            query_prometheus(settings.prometheus_url, answers),
        )
        return ReaderUse(steps_of_readers * STEP_S / (days * _DAY_S), count / days, "Prometheus")
    replicas = settings.reader_replicas or None
    return ReaderUse(replicas, None, "FORECACHE_READER_REPLICAS" if replicas else "")


def replica_lines(settings: Settings, use: ReaderUse) -> list[CostLine]:
    if use.replicas is None:
        return []
    hours = use.replicas * 24
    return [
        hourly_line(settings, "replicas", "", "readers", hours, "replica-hours", priced_by=REPLICA, basis=use.basis)
    ]


def query_prometheus(url: str, query: str) -> float:
    """The value of a Prometheus query that has one value; 0 if no series matches."""
    asked = f"{url.rstrip('/')}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(asked, timeout=_TIMEOUT_S) as response:
            found: dict[str, Any] = json.load(response)
        result = found["data"]["result"]
    except (OSError, ValueError, KeyError, urllib.error.URLError) as error:
        raise UnavailableError(
            f"Prometheus at {url} does not answer: {error}.", remedy="Check FORECACHE_PROMETHEUS_URL."
        ) from error
    return float(result[0]["value"][1]) if result else 0.0
