"""The outbox of one receiver: waiting notices, messages that were not accepted yet, and the time of the next try."""

import sqlite3
import time
import uuid
from dataclasses import dataclass
from datetime import datetime

from forecache.base.settings import Settings
from forecache.kit.process.periodic import Backoff
from forecache.plugins.alerts.database import transaction
from forecache.plugins.alerts.journal import notice_of, utc_time
from forecache.plugins.alerts.message import Message

_KEPT_S = 90 * 86400.0
_BACKOFF = Backoff(30.0, 3600.0)
_HOUR_S = 3600.0


@dataclass(frozen=True)
class OutboxState:
    """The notices that a receiver has not got yet.

    Attributes:
        notices: Number of waiting notices.
        reason: Reason why it did not accept the last message; "" if it did.
        next_at: Time of the next try, None if it works.
    """

    notices: int
    reason: str = ""
    next_at: datetime | None = None


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

    def mark_delivered(self, message: Message) -> None:
        """Record that the receiver accepted a message, and so works."""
        self._end_message(message, "taken", works=True)

    def mark_refused(self, message: Message) -> None:
        """Record that the receiver refused a message for good; it works for others."""
        self._end_message(message, "refused", works=True)

    def mark_given_up(self, message: Message) -> None:
        """Record that a message is not tried any more."""
        self._end_message(message, "given up", works=False)

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

    def _end_message(self, message: Message, outcome: str, *, works: bool) -> None:
        with transaction(self._settings) as connection:
            now = time.time()
            connection.execute("UPDATE messages SET ended_at = ?, outcome = ? WHERE id = ?", (now, outcome, message.id))
            if works:
                connection.execute("DELETE FROM sinks WHERE name = ?", (self._sink,))
            old = now - _KEPT_S
            connection.execute("DELETE FROM alerts WHERE max(seen_at, coalesce(ended_at, 0)) < ?", (old,))
            connection.execute("DELETE FROM messages WHERE made_at < ?", (old,))
