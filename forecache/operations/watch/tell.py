"""Telling of what a look found, together with what an orchestrator recorded."""

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
    """Look, and tell what is new.

    Args:
        alerts, well, cursors: What the orchestrator recorded; see `forecache.alerts.notify.notify`.

    Returns:
        What became of it, by sink, and what could not be looked at.
    """
    found = look_safely(settings)
    looked = {**(cursors or {}), **found.cursors}
    told = notify(settings, [*alerts, *found.alerts], well, complete=found.complete, cursors=looked)
    return told, found.problems


def look_safely(settings: Settings) -> Found:
    """`look`; a project that cannot be imported is a problem like others, so that failed runs are told all the same."""
    try:
        return look(settings)
    except ForecacheError as error:
        return Found((), (), (str(error),))
