"""Telling of alerts: note them, then send each sink what waits for it."""

import logging
import sqlite3
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from traceback import format_tb
from urllib.parse import quote

from forecache.alerts.alert import Alert, Kind, Subject
from forecache.alerts.database import folder
from forecache.alerts.journal import note
from forecache.alerts.message import Message
from forecache.alerts.outbox import Outbox
from forecache.alerts.sinks.chosen import chosen_sinks
from forecache.alerts.sinks.sink import Sink
from forecache.errors import ConflictError, ForecacheError
from forecache.files import lock
from forecache.posting import Failed
from forecache.settings import Settings
from forecache.steps import Steps

_GIVEN_UP_S = 3 * 86400.0
_log = logging.getLogger(__name__)

alert_step = Steps("noted", "made", "sent", "recorded")
"""Of telling a sink, as tests kill them."""


@dataclass(frozen=True)
class Told:
    """What a sink got in one call.

    Attributes:
        sink: Its name; "" where nothing could be noted, or the settings are wrong.
        messages: That it took.
        notices: In these messages.
        waiting: Notices that it has not got yet, such as because it does not answer, or had its messages of this hour.
        reason: Why it did not take a message; "" where it did.
    """

    sink: str
    messages: int = 0
    notices: int = 0
    waiting: int = 0
    reason: str = ""


def notify(
    settings: Settings,
    alerts: Iterable[Alert] = (),
    well: Iterable[Subject] = (),
    *,
    complete: Collection[Kind] = (),
    cursors: Mapping[str, str] | None = None,
) -> list[Told]:
    """Tell each sink of the settings what it has not been told: what is wrong, and what is well again.

    Also what earlier calls could not tell is sent. An alert that was told is told again only where it lasts, after
    FORECACHE_ALERT_REPEAT_H. It raises nothing and takes at most FORECACHE_ALERT_TIMEOUT_S for each sink, several times
    that where a sink is slow rather than silent: what cannot be sent now waits, and a warning is logged.

    Args:
        well, complete, cursors: See `forecache.alerts.journal.note`.

    Returns:
        What became of it, by sink; empty where the settings name none.
    """
    try:
        sinks = chosen_sinks(settings)
        names = [sink.name for sink in sinks]
        note(settings, alerts, well, sinks=names, complete=complete, cursors=cursors)
        alert_step("noted")
        return [_tell(settings, sink) for sink in sinks]
    except (ForecacheError, OSError, sqlite3.Error) as error:
        _log.warning("Alerts could not be told: %s", error)
        return [Told("", reason=str(error))]


def failures(told: Sequence[Told]) -> str:
    """Why some sinks were not told, in a sentence each; "" where all were."""
    return " ".join(f"{each.sink or 'alerts'}: {each.reason}" for each in told if each.reason)


def _tell(settings: Settings, sink: Sink) -> Told:
    """Send a sink its messages; one process at a time does."""
    outbox, messages, notices, reason = Outbox(settings, sink.name), 0, 0, ""
    path = folder(settings) / f"{quote(sink.name, safe=' @')[:200]}.lock"
    try:
        with lock(path, refused=_busy, wait_s=2 * settings.alert_timeout_s):
            # Another process may note more while this one sends; it relies on this one where it did not get the lock.
            while not reason and (message := outbox.next_message()) is not None:
                alert_step("made")
                failed = _send(sink, message)
                alert_step("sent")
                if failed is None:
                    outbox.taken(message)
                    messages, notices = messages + 1, notices + len(message.notices)
                elif failed.refused:
                    outbox.refused(message)
                    reason = failed.reason
                else:
                    outbox.failed(failed.reason, at_least_s=failed.retry_after_s)
                    reason = failed.reason
                    if time.time() - message.made_at.timestamp() > _GIVEN_UP_S:
                        outbox.given_up(message)
                alert_step("recorded")
    except ConflictError:
        _log.info("Another process is telling %s.", sink.name)
    if reason:
        _log.warning("Alerts could not be told to %s: %s", sink.name, reason)
    waiting = outbox.waiting()
    return Told(sink.name, messages, notices, waiting.notices, reason or waiting.reason)


def _send(sink: Sink, message: Message) -> Failed | None:
    try:
        return sink.send(message)
    except Exception as error:  # noqa: BLE001  (what tells of failures must not be one: it is tried again)
        name = type(error).__name__
        # Where, and not what the error says: that may have the sink's URL, which may be a secret.
        _log.error("A message to %s was not sent, by a defect: %s\n%s", sink.name, name, _frames(error))
        return Failed(f"{name} while the message was sent.")


def _frames(error: Exception) -> str:
    return "".join(format_tb(error.__traceback__))


def _busy(holder: str) -> ConflictError:
    return ConflictError("Another process is telling this sink.")
