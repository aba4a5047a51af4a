"""Notify people of a project's alerts, together with those that an orchestrator recorded."""

from collections.abc import Iterable, Mapping

from forecache.alerts.alert import Alert, Subject
from forecache.alerts.notify import Told, notify
from forecache.errors import ForecacheError
from forecache.operations.watch.look import Found, look
from forecache.settings import Settings


def tell(
    settings: Settings,
    alerts: Iterable[Alert] = (),
    well: Iterable[Subject] = (),
    *,
    cursors: Mapping[str, str] | None = None,
) -> tuple[list[Told], tuple[str, ...]]:
    """Collect the project's alerts, and notify the receivers of new ones.

    Args:
        alerts, well, cursors: Alerts that the orchestrator recorded; see `forecache.alerts.notify.notify`.

    Returns:
        The result for each receiver, and the parts of the project that could not be looked at.
    """
    found = look_safely(settings)
    looked = {**(cursors or {}), **found.cursors}
    told = notify(settings, [*alerts, *found.alerts], well, complete=found.complete, cursors=looked)
    return told, found.problems


def look_safely(settings: Settings) -> Found:
    """Collect alerts; a project that cannot be imported is reported as a problem, not raised."""
    try:
        return look(settings)
    except ForecacheError as error:
        return Found((), (), (str(error),))
