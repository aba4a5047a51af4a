"""Alerts that are not over, as the journal has them and, where the project can be looked at, as they are now."""

import sqlite3
from typing import Any

from forecache.alerts.alert import LASTING, TITLES, Alert
from forecache.alerts.database import database_file
from forecache.errors import UnavailableError
from forecache.settings import Settings


def noted_alerts(settings: Settings) -> list[Alert]:
    """Those of the journal; none where nothing was noted yet.

    Raises:
        UnavailableError: The journal cannot be read.
    """
    from forecache.alerts.journal import open_alerts

    if not database_file(settings).is_file():
        return []
    try:
        return open_alerts(settings)
    except (sqlite3.Error, OSError) as error:
        raise UnavailableError(
            f"The journal of alerts {database_file(settings)} cannot be read: {error}.",
            remedy="Check its permissions and the disk.",
        ) from error


def alerts_now(settings: Settings) -> tuple[list[Alert], list[str]]:
    """Alerts that last, from a look at stores and schedules and of the journal, and what could not be looked at."""
    from forecache.operations.watch.tell import look_safely

    found = look_safely(settings)
    seen = [alert for alert in found.alerts if alert.kind in LASTING]
    known = {alert.subject for alert in seen}
    try:
        noted = noted_alerts(settings)
    except UnavailableError as error:
        return seen, [*found.problems, error.message]
    # What the look has all of is over where it has not found it, whatever was noted before.
    noted = [alert for alert in noted if alert.subject not in known and alert.kind not in found.complete]
    return [*seen, *noted], list(found.problems)


def described(alert: Alert) -> dict[str, Any]:
    return {
        "kind": alert.kind,
        "title": TITLES[alert.kind],
        "name": alert.name,
        "severity": alert.severity,
        "summary": alert.summary,
        "since": f"{alert.at:%Y-%m-%d %H:%M}",
    }
