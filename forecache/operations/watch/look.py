"""Collect the alerts of a project from its present state, and notify people of them."""

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from forecache.alerts.alert import LASTING, Alert, Kind
from forecache.errors import ForecacheError
from forecache.operations.watch.log import log_losses, stuck_logs, unasked_models
from forecache.operations.watch.models import gate_decisions
from forecache.operations.watch.nights import waiting_nights
from forecache.operations.watch.streams import STREAM_KINDS, streams_not_well
from forecache.operations.watch.versions import stale_versions
from forecache.pipeline.loading import read_project
from forecache.settings import Settings


@dataclass(frozen=True)
class Found:
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


def look(settings: Settings) -> Found:
    """Collect alerts from the stores, the schedules, the promotion ledger, the request logs and the streams.

    Raises:
        SettingsError: The project cannot be imported.
    """
    project = read_project(settings)
    cursors: dict[str, str] = {}
    looks: dict[tuple[Kind, ...], Callable[[], Iterator[Alert]]] = {
        ("version_stale",): lambda: stale_versions(settings, project),
        ("night_waiting",): lambda: waiting_nights(settings, project),
        ("gate_refused",): lambda: gate_decisions(settings),
        ("log_stuck",): lambda: stuck_logs(settings),
        ("log_rows_lost",): lambda: log_losses(settings, cursors),
        ("model_unasked",): lambda: unasked_models(settings, project),
        STREAM_KINDS: lambda: streams_not_well(settings, project),
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
    return Found(tuple(alerts), tuple(complete), tuple(problems), cursors)
