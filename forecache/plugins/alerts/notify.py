"""Notify receivers of alerts: record the alerts, then send each receiver the notices that wait for it."""

import logging
import sqlite3
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from traceback import format_tb
from urllib.parse import quote

from forecache.base.alert import Alert, Kind, Subject
from forecache.base.errors import ConflictError, ForecacheError
from forecache.base.files import lock
from forecache.base.settings import Settings
from forecache.base.steps import Steps
from forecache.plugins.alerts.database import alerts_folder
from forecache.plugins.alerts.journal import record_alerts
from forecache.plugins.alerts.message import Message
from forecache.plugins.alerts.outbox import Outbox
from forecache.plugins.alerts.receivers import AlertReceiver, configured_alert_receivers
from forecache.plugins.posting import PostFailure

_GIVEN_UP_S = 3 * 86400.0
_log = logging.getLogger(__name__)

alert_step = Steps("noted", "made", "sent", "recorded")
"""Steps of notifying a receiver, after each of which tests kill the process."""


@dataclass(frozen=True)
class NotifyResult:
    """The result of notifying one receiver.

    Attributes:
        sink: Name of the receiver; "" if nothing could be recorded, or the settings are wrong.
        messages: Number of accepted messages.
        notices: Number of notices in these messages.
        waiting: Number of notices not sent yet, because it does not answer or had its messages of this hour.
        reason: Reason why it did not accept a message; "" if it did.
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
) -> list[NotifyResult]:
    """Notify each configured receiver of new problems and of problems that are over.

    Notices that earlier calls could not send are sent too. An alert that was sent is sent again only while it lasts,
    every FORECACHE_ALERT_REPEAT_H. It raises nothing and takes at most FORECACHE_ALERT_TIMEOUT_S for each receiver, or
    several times that if a receiver is slow rather than silent: what cannot be sent waits, and a warning is logged.

    Args:
        well, complete, cursors: See `forecache.plugins.alerts.journal.record_alerts`.

    Returns:
        The result for each receiver; empty if none is configured.
    """
    try:
        sinks = configured_alert_receivers(settings)
        names = [sink.name for sink in sinks]
        record_alerts(settings, alerts, well, sinks=names, complete=complete, cursors=cursors)
        alert_step("noted")
        return [_send_waiting(settings, sink) for sink in sinks]
    except (ForecacheError, OSError, sqlite3.Error) as error:
        _log.warning("Alerts could not be recorded or sent: %s", error)
        return [NotifyResult("", reason=str(error))]


def describe_failures(told: Sequence[NotifyResult]) -> str:
    """The reasons of receivers that could not be notified, a sentence each; "" if all were."""
    return " ".join(f"{each.sink or 'alerts'}: {each.reason}" for each in told if each.reason)


def _send_waiting(settings: Settings, sink: AlertReceiver) -> NotifyResult:
    """Send a receiver its messages, under a lock: one process at a time does."""
    outbox, messages, notices, reason = Outbox(settings, sink.name), 0, 0, ""
    path = alerts_folder(settings) / f"{quote(sink.name, safe=' @')[:200]}.lock"
    try:
        with lock(path, refused=_busy_error, wait_s=2 * settings.alert_timeout_s):
            # Another process that did not get the lock relies on this one to send what it records meanwhile.
            while not reason and (message := outbox.next_message()) is not None:
                alert_step("made")
                failed = _send(sink, message)
                alert_step("sent")
                if failed is None:
                    outbox.mark_delivered(message)
                    messages, notices = messages + 1, notices + len(message.notices)
                elif failed.refused:
                    outbox.mark_refused(message)
                    reason = failed.reason
                else:
                    outbox.mark_failed(failed.reason, at_least_s=failed.retry_after_s)
                    reason = failed.reason
                    if time.time() - message.made_at.timestamp() > _GIVEN_UP_S:
                        outbox.mark_given_up(message)
                alert_step("recorded")
    except ConflictError:
        _log.info("Another process is sending alerts to %s.", sink.name)
    if reason:
        _log.warning("Alerts could not be sent to %s: %s", sink.name, reason)
    waiting = outbox.read_state()
    return NotifyResult(sink.name, messages, notices, waiting.notices, reason or waiting.reason)


def _send(sink: AlertReceiver, message: Message) -> PostFailure | None:
    try:
        return sink.send(message)
    except Exception as error:  # noqa: BLE001  (a defect of a receiver must not fail its caller: it is tried again)
        name = type(error).__name__
        # The frames, and not the error's text: that may have the receiver's URL, which may be a secret.
        _log.error("A message to %s was not sent, by a defect: %s\n%s", sink.name, name, _frames(error))
        return PostFailure(f"{name} while the message was sent.")


def _frames(error: Exception) -> str:
    return "".join(format_tb(error.__traceback__))


def _busy_error(holder: str) -> ConflictError:
    return ConflictError("Another process is sending alerts to this receiver.")
