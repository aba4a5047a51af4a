"""Notify receivers of alerts: record the alerts, then send each receiver the notices that wait for it."""

import logging
import sqlite3
import time
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from traceback import format_tb
from typing import Literal
from urllib.parse import quote

from forecache.base.alert import Alert, Kind, Subject
from forecache.base.errors import ConflictError, ForecacheError
from forecache.base.files import lock
from forecache.base.settings import Settings
from forecache.base.steps import Steps
from forecache.kit.process.periodic import Backoff
from forecache.plugins.alerts.journal import Message, alerts_folder, notice_of, record_alerts, transaction, utc_time
from forecache.plugins.alerts.receivers import AlertReceiver, configured_alert_receivers
from forecache.plugins.posting import PostFailure

_KEPT_S = 90 * 86400.0
_BACKOFF = Backoff(30.0, 3600.0)
_HOUR_S = 3600.0


Outcome = Literal["taken", "refused", "given up"]


@dataclass(frozen=True)
class OutboxState:
    """The notices that a receiver has not got yet."""

    notices: int  # number of waiting notices
    reason: str = ""  # reason why it did not accept the last message; "" if it did
    next_at: datetime | None = None  # time of the next try, None if it works


class Outbox:
    """The queue of messages to one receiver."""

    def __init__(self, settings: Settings, sink: str) -> None:
        self._settings, self._sink = settings, sink

    def next_message(self) -> Message | None:
        """The message to send now: one that was not accepted yet, or else a new one of all waiting notices.

        None if nothing waits, if the receiver is not to be tried yet, or if it had its messages of this hour.
        """
        with transaction(self._settings) as connection:
            now = time.time()
            if self._is_paused(connection, now):
                return None
            made = connection.execute(
                "SELECT id, made_at FROM messages WHERE sink = ? AND ended_at IS NULL ORDER BY made_at LIMIT 1",
                (self._sink,),
            ).fetchone()
            made = made or self._make_message(connection, now)
            return None if made is None else self._read_message(connection, *made)

    def end_message(self, message: Message, outcome: Outcome) -> None:
        """Record that a message is not sent any more: the receiver took it, refused it for good, or did not answer."""
        with transaction(self._settings) as connection:
            now = time.time()
            connection.execute("UPDATE messages SET ended_at = ?, outcome = ? WHERE id = ?", (now, outcome, message.id))
            if outcome != "given up":  # the receiver works
                connection.execute("DELETE FROM sinks WHERE name = ?", (self._sink,))
            old = now - _KEPT_S
            connection.execute("DELETE FROM alerts WHERE max(seen_at, coalesce(ended_at, 0)) < ?", (old,))
            connection.execute("DELETE FROM messages WHERE made_at < ?", (old,))

    def mark_failed(self, reason: str, *, at_least_s: float) -> None:
        """Record that the receiver failed: it is tried again after 30 s, then 1 min, 2 min and so on up to an hour."""
        with transaction(self._settings) as connection:
            row = connection.execute("SELECT failed FROM sinks WHERE name = ?", (self._sink,)).fetchone()
            failed = row[0] if row else 0
            pause_s = max(_BACKOFF.pause_s(failed + 1), at_least_s)
            values = (self._sink, failed + 1, time.time() + pause_s, reason)
            connection.execute("INSERT OR REPLACE INTO sinks VALUES (?, ?, ?, ?)", values)

    def read_state(self) -> OutboxState:
        """The notices that wait, and the state of the receiver."""
        with transaction(self._settings) as connection:
            (notices,) = connection.execute(
                "SELECT count(*) FROM notices n LEFT JOIN messages m ON m.id = n.message "
                "WHERE n.sink = ? AND (n.message IS NULL OR m.ended_at IS NULL)",
                (self._sink,),
            ).fetchone()
            row = connection.execute("SELECT reason, next_at FROM sinks WHERE name = ?", (self._sink,)).fetchone()
        return OutboxState(notices) if row is None else OutboxState(notices, row["reason"], utc_time(row["next_at"]))

    def _is_paused(self, connection: sqlite3.Connection, now: float) -> bool:
        row = connection.execute("SELECT next_at FROM sinks WHERE name = ?", (self._sink,)).fetchone()
        # If the clock was set back meanwhile, the pause ends rather than lasts very long.
        return row is not None and now < row["next_at"] <= now + _BACKOFF.longest_s

    def _make_message(self, connection: sqlite3.Connection, now: float) -> tuple[str, float] | None:
        waits = connection.execute(
            "SELECT 1 FROM notices WHERE sink = ? AND message IS NULL LIMIT 1", (self._sink,)
        ).fetchone()
        (recent,) = connection.execute(
            "SELECT count(*) FROM messages WHERE sink = ? AND made_at BETWEEN ? AND ?", (self._sink, now - _HOUR_S, now)
        ).fetchone()
        if waits is None or recent >= self._settings.alert_messages_per_hour:
            return None
        made = uuid.uuid4().hex, now
        connection.execute("INSERT INTO messages VALUES (?, ?, ?, NULL, '')", (made[0], self._sink, now))
        connection.execute("UPDATE notices SET message = ? WHERE sink = ? AND message IS NULL", (made[0], self._sink))
        return made

    def _read_message(self, connection: sqlite3.Connection, id_: str, made_at: float) -> Message:
        rows = connection.execute(
            "SELECT a.*, n.state, n.number AS told FROM notices n JOIN alerts a ON a.number = n.alert "
            "WHERE n.message = ? ORDER BY a.number, n.state",
            (id_,),
        )
        return Message(id_, self._settings.project, utc_time(made_at), tuple(map(notice_of, rows)))


_GIVEN_UP_S = 3 * 86400.0
_log = logging.getLogger(__name__)

alert_step = Steps("noted", "made", "sent", "recorded")
"""Steps of notifying a receiver, after each of which tests kill the process."""


@dataclass(frozen=True)
class NotifyResult:
    """The result of notifying one receiver."""

    sink: str  # name of the receiver; "" if nothing could be recorded, or the settings are wrong
    messages: int = 0  # number of accepted messages
    notices: int = 0  # number of notices in these messages
    waiting: int = 0  # number of notices not sent yet, because it does not answer or had its messages of this hour
    reason: str = ""  # reason why it did not accept a message; "" if it did


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
                reason = failed.reason if failed is not None else ""
                if failed is None:
                    outbox.end_message(message, "taken")
                    messages, notices = messages + 1, notices + len(message.notices)
                elif failed.refused:
                    outbox.end_message(message, "refused")
                else:
                    outbox.mark_failed(failed.reason, at_least_s=failed.retry_after_s)
                    if time.time() - message.made_at.timestamp() > _GIVEN_UP_S:
                        outbox.end_message(message, "given up")
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
        frames = "".join(format_tb(error.__traceback__))
        _log.error("A message to %s was not sent, by a defect: %s\n%s", sink.name, name, frames)
        return PostFailure(f"{name} while the message was sent.")


def _busy_error(holder: str) -> ConflictError:
    return ConflictError("Another process is sending alerts to this receiver.")
