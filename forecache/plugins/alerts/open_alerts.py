"""Open alerts: those of the journal, and those that a look at the project finds now."""

import sqlite3

from forecache.base.alert import LASTING, Alert
from forecache.base.errors import UnavailableError
from forecache.base.settings import Settings
from forecache.plugins.alerts.database import database_file


def read_noted_alerts(settings: Settings) -> list[Alert]:
    """The open alerts of the journal; none if nothing was recorded yet.

    Raises:
        UnavailableError: The journal cannot be read.
    """
    from forecache.plugins.alerts.journal import list_open_alerts

    if not database_file(settings).is_file():
        return []
    try:
        return list_open_alerts(settings)
    except (sqlite3.Error, OSError) as error:
        raise UnavailableError(
            f"The journal of alerts {database_file(settings)} cannot be read: {error}.",
            remedy="Check its permissions and the disk.",
        ) from error


def current_alerts(settings: Settings) -> tuple[list[Alert], list[str]]:
    """Open alerts from a look at the project and from the journal, and the look's problems, a sentence each."""
    from forecache.plugins.alerts.collect_alerts import collect_alerts_safely

    found = collect_alerts_safely(settings)
    seen = [alert for alert in found.alerts if alert.kind in LASTING]
    known = {alert.subject for alert in seen}
    try:
        noted = read_noted_alerts(settings)
    except UnavailableError as error:
        return seen, [*found.problems, error.message]
    # Of kinds that the look covers completely, recorded alerts that it has not found are over.
    noted = [alert for alert in noted if alert.subject not in known and alert.kind not in found.complete]
    return [*seen, *noted], list(found.problems)
