"""Collect the alerts of a project from its present state, and notify people of them."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from forecache.base.alert import LASTING, Alert, Kind, Subject
from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings
from forecache.declare.loading import read_project
from forecache.plugins.alerts.notify import NotifyResult, notify
from forecache.plugins.alerts.watch.find_alerts import (
    STREAM_KINDS,
    gate_alerts,
    lost_row_alerts,
    stale_version_alerts,
    stream_alerts,
    stuck_log_alerts,
    unasked_model_alerts,
    waiting_date_alerts,
)


@dataclass(frozen=True)
class WatchResult:
    """Alerts found by a look at the project.

    Attributes:
        complete: Lasting kinds of which `alerts` has every open alert.
        problems: Parts that could not be looked at, in a sentence each.
        cursors: Positions from which the next look reads, to be recorded with the alerts.
    """

    alerts: tuple[Alert, ...]
    complete: tuple[Kind, ...]
    problems: tuple[str, ...]
    cursors: Mapping[str, str] = field(default_factory=dict)


def collect_alerts(settings: Settings) -> WatchResult:
    """Collect alerts from the stores, the schedules, the promotion ledger, the request logs and the streams.

    Raises:
        SettingsError: The project cannot be imported.
    """
    project = read_project(settings)
    cursors: dict[str, str] = {}
    looks: dict[tuple[Kind, ...], Callable[[], Iterator[Alert]]] = {
        ("version_stale",): lambda: stale_version_alerts(settings, project),
        ("night_waiting",): lambda: waiting_date_alerts(settings, project),
        ("gate_refused",): lambda: gate_alerts(settings),
        ("log_stuck",): lambda: stuck_log_alerts(settings),
        ("log_rows_lost",): lambda: lost_row_alerts(settings, cursors),
        ("model_unasked",): lambda: unasked_model_alerts(settings, project),
        STREAM_KINDS: lambda: stream_alerts(settings, project),
    }
    alerts: list[Alert] = []
    complete: list[Kind] = []
    problems: list[str] = []
    for kinds, each in looks.items():
        try:
            alerts += each()
        except (ForecacheError, OSError, sqlite3.Error) as error:
            problems.append(str(error))
        else:
            complete += [kind for kind in kinds if kind in LASTING]
    return WatchResult(tuple(alerts), tuple(complete), tuple(problems), cursors)


def collect_and_notify(
    settings: Settings,
    alerts: Iterable[Alert] = (),
    well: Iterable[Subject] = (),
    *,
    cursors: Mapping[str, str] | None = None,
) -> tuple[list[NotifyResult], tuple[str, ...]]:
    """Collect the project's alerts, and notify the receivers of new ones.

    Args:
        alerts, well, cursors: Alerts that the orchestrator recorded; see `forecache.plugins.alerts.notify.notify`.

    Returns:
        The result for each receiver, and the parts of the project that could not be looked at.
    """
    found = collect_alerts_safely(settings)
    looked = {**(cursors or {}), **found.cursors}
    told = notify(settings, [*alerts, *found.alerts], well, complete=found.complete, cursors=looked)
    return told, found.problems


def collect_alerts_safely(settings: Settings) -> WatchResult:
    """Collect alerts; a project that cannot be imported is reported as a problem, not raised."""
    try:
        return collect_alerts(settings)
    except ForecacheError as error:
        return WatchResult((), (), (str(error),))
