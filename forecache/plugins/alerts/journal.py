"""The journal of alerts: records problems and their ends, with a notice for each receiver to be notified."""

import json
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path
from typing import Literal

from forecache.base.alert import LASTING, REPEATED, SEVERITIES, TITLES, Alert, Kind, Subject
from forecache.base.errors import UnavailableError
from forecache.base.settings import Settings

NAMED = 20
"""Number of groups that a message for people names; the rest are counted."""

State = Literal["firing", "resolved"]


@dataclass(frozen=True)
class Notice:
    """The information that an alert is firing, or was resolved."""

    id: str  # of the alert, from its beginning to its end
    alert: Alert
    state: State
    number: int = 0  # number of earlier notices that it is firing: 0 for the first, more for repeats
    ended_at: datetime | None = None  # None while it lasts, and for alerts about a moment


@dataclass(frozen=True)
class NoticeGroup:
    """Notices of equal state, kind and name."""

    notices: tuple[Notice, ...]

    @property
    def state(self) -> State:
        return self.notices[0].state

    @property
    def severity(self) -> str:
        """The worst of them."""
        return min((notice.alert.severity for notice in self.notices), key=SEVERITIES.index)

    @property
    def title(self) -> str:
        """Such as "Check failed: raw_orders.meets_expectations (500)"."""
        alert, count = self.notices[0].alert, len(self.notices)
        over = "Resolved: " if self.state == "resolved" else "Still: " if self.notices[0].number else ""
        kind = TITLES[alert.kind]
        return f"{over}{kind[0].lower() + kind[1:] if over else kind}: {alert.name}{f' ({count})' if count > 1 else ''}"

    @property
    def text(self) -> str:
        """The summary of the first, and the range of the others."""
        first, last = self.notices[0].alert, self.notices[-1].alert
        if len(self.notices) == 1:
            return first.summary
        return f"{len(self.notices)}, from {first.occasion} to {last.occasion}. The first: {first.summary}"


@dataclass(frozen=True)
class Message:
    """One message to one receiver."""

    id: str  # equal at each try to deliver it, so that a receiver can drop duplicates
    project: str  # the project that the alerts are from
    made_at: datetime
    notices: tuple[Notice, ...]

    @property
    def groups(self) -> list[NoticeGroup]:
        """The worst first, resolved ones last; within a group by occasion."""

        def sort_key(notice: Notice) -> tuple[bool, int, str, str, bool, str]:
            alert = notice.alert
            severity = SEVERITIES.index(alert.severity)
            return notice.state == "resolved", severity, alert.kind, alert.name, notice.number > 0, alert.occasion

        return [
            NoticeGroup(tuple(some))
            for _, some in groupby(sorted(self.notices, key=sort_key), key=lambda n: sort_key(n)[:5])
        ]

    @property
    def subject(self) -> str:
        """One line: the first group and the number of the others."""
        groups = self.groups
        more = f" and {len(groups) - 1} more" if len(groups) > 1 else ""
        return f"[{self.project}] {groups[0].title}{more}"

    @property
    def named_groups(self) -> Sequence[NoticeGroup]:
        return self.groups[:NAMED]

    @property
    def remainder_text(self) -> str:
        """A sentence with the number of groups that are not named; "" if all are."""
        left = len(self.groups) - NAMED
        return f"And {left} more: `forecache alerts` lists them." if left > 0 else ""


_WAIT_S = 30.0
_SCHEMA = (
    """CREATE TABLE alerts (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, name TEXT NOT NULL, occasion TEXT NOT NULL,
    severity TEXT NOT NULL, summary TEXT NOT NULL, details TEXT NOT NULL, at TEXT NOT NULL, seen_at REAL NOT NULL,
    ended_at REAL)""",
    "CREATE UNIQUE INDEX open_alerts ON alerts (kind, name, occasion) WHERE ended_at IS NULL",
    """CREATE TABLE notices (
    alert INTEGER NOT NULL REFERENCES alerts ON DELETE CASCADE, sink TEXT NOT NULL, state TEXT NOT NULL,
    number INTEGER NOT NULL, noted_at REAL NOT NULL, message TEXT, PRIMARY KEY (alert, sink, state, number))""",
    "CREATE INDEX notices_of_message ON notices (message)",
    """CREATE TABLE messages (
    id TEXT PRIMARY KEY, sink TEXT NOT NULL, made_at REAL NOT NULL, ended_at REAL, outcome TEXT NOT NULL)""",
    "CREATE TABLE sinks (name TEXT PRIMARY KEY, failed INTEGER NOT NULL, next_at REAL NOT NULL, reason TEXT NOT NULL)",
    "CREATE TABLE cursors (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "PRAGMA user_version = 1",
)


def alerts_folder(settings: Settings) -> Path:
    """The folder of the database and of the receivers' locks."""
    return settings.home_path / "alerts"


def database_file(settings: Settings) -> Path:
    """The database file; it does not exist before the first alert is recorded."""
    return alerts_folder(settings) / "journal.sqlite"


@contextmanager
def transaction(settings: Settings) -> Iterator[sqlite3.Connection]:
    """An exclusive write transaction, durable when the block ends; an error in the block rolls it back.

    Raises:
        OSError, sqlite3.Error: The home folder cannot be written.
    """
    alerts_folder(settings).mkdir(parents=True, exist_ok=True, mode=0o700)
    with closing(sqlite3.connect(database_file(settings), timeout=_WAIT_S, isolation_level=None)) as connection:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        with connection:  # commits or rolls back, unless SQLite has rolled back itself, as on a full disk
            connection.execute("BEGIN IMMEDIATE")
            if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                for statement in _SCHEMA:
                    connection.execute(statement)
            yield connection


def record_alerts(
    settings: Settings,
    alerts: Iterable[Alert],
    well: Iterable[Subject] = (),
    *,
    sinks: Collection[str],
    complete: Collection[Kind] = (),
    cursors: Mapping[str, str] | None = None,
) -> None:
    """Record alerts, then resolved subjects, in one transaction.

    Args:
        well: Subjects whose recorded alerts are over.
        sinks: Names of the receivers to be notified.
        complete: Lasting kinds of which `alerts` has every open alert: recorded ones that are not in it are over.
        cursors: By name, the position up to which `alerts` and `well` were read.
    """
    with transaction(settings) as connection:
        _record_alerts(connection, settings, alerts, well, sinks, complete)
        for name, value in (cursors or {}).items():
            connection.execute("INSERT OR REPLACE INTO cursors VALUES (?, ?)", (name, value))


def _record_alerts(
    connection: sqlite3.Connection,
    settings: Settings,
    alerts: Iterable[Alert],
    well: Iterable[Subject],
    sinks: Collection[str],
    complete: Collection[Kind],
) -> None:
    now, found = time.time(), list(alerts)
    for alert in found:
        _record_firing(connection, alert, sinks, settings.alert_repeat_h * 3600, now)
    wrong = {alert.subject for alert in found}
    over = [subject for subject in _open_subjects(connection) if subject.kind in complete and subject not in wrong]
    for subject in [*well, *over]:
        _record_resolved(connection, subject, now)


def preview_notices(
    settings: Settings, alerts: Iterable[Alert], well: Iterable[Subject], *, sink: str, complete: Collection[Kind]
) -> list[Notice]:
    """The notices that a receiver would get now, as `Message.groups` orders them; nothing is recorded."""
    found: list[Notice] = []
    with suppress(_UndoTransaction), transaction(settings) as connection:
        _record_alerts(connection, settings, alerts, well, [sink], complete)
        rows = connection.execute(
            "SELECT a.*, n.state, n.number AS told FROM notices n JOIN alerts a ON a.number = n.alert "
            "LEFT JOIN messages m ON m.id = n.message WHERE n.sink = ? AND (m.id IS NULL OR m.ended_at IS NULL)",
            (sink,),
        )
        found += map(notice_of, rows)
        raise _UndoTransaction
    return found


class _UndoTransaction(Exception):
    """Leaves a transaction without its changes."""


def read_cursor(settings: Settings, name: str) -> str | None:
    """The recorded position of a cursor; None if there is none."""
    if not database_file(settings).is_file():
        return None
    with transaction(settings) as connection:
        row = connection.execute("SELECT value FROM cursors WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def alert_of(row: sqlite3.Row) -> Alert:
    """An alert of a row that has the columns of `alerts`."""
    at = datetime.fromisoformat(row["at"])
    details = json.loads(row["details"])
    return Alert(row["kind"], row["name"], row["severity"], row["summary"], details, at, row["occasion"])


def notice_of(row: sqlite3.Row) -> Notice:
    """A notice of a row that has the columns of `alerts`, the notice's `state`, and `told`, its number."""
    ended_at = utc_time(row["ended_at"]) if row["state"] == "resolved" else None
    return Notice(row["id"], alert_of(row), row["state"], row["told"], ended_at)


def utc_time(at: float) -> datetime:
    return datetime.fromtimestamp(at, timezone.utc)


def list_open_alerts(settings: Settings) -> list[Alert]:
    """Lasting alerts that are not over, the oldest first."""
    with transaction(settings) as connection:
        rows = connection.execute("SELECT * FROM alerts WHERE ended_at IS NULL ORDER BY at, number").fetchall()
    return [alert_of(row) for row in rows if row["kind"] in LASTING]


def _open_subjects(connection: sqlite3.Connection) -> list[Subject]:
    return [
        Subject(*row) for row in connection.execute("SELECT kind, name, occasion FROM alerts WHERE ended_at IS NULL")
    ]


def _record_firing(
    connection: sqlite3.Connection, alert: Alert, sinks: Collection[str], repeat_s: float, now: float
) -> None:
    number = _insert_or_update(connection, alert, now)
    repeats = alert.kind in REPEATED and repeat_s > 0
    for sink in sinks:
        told, last = connection.execute(
            "SELECT count(*), max(noted_at) FROM notices WHERE alert = ? AND sink = ? AND state = 'firing'",
            (number, sink),
        ).fetchone()
        if not told or (repeats and last + repeat_s <= now):
            connection.execute("INSERT INTO notices VALUES (?, ?, 'firing', ?, ?, NULL)", (number, sink, told, now))


def _insert_or_update(connection: sqlite3.Connection, alert: Alert, now: float) -> int:
    """Insert the alert, or update the row of the open alert with its subject; returns the number of the row."""
    # The error of a run may name a file whose name has bytes that are no text.
    summary = alert.summary.encode(errors="replace").decode()
    content = (alert.severity, summary, json.dumps(dict(alert.details), default=str))
    of_subject = "WHERE kind = ? AND name = ? AND occasion = ?"
    known = connection.execute(
        f"SELECT number FROM alerts {of_subject} AND ended_at IS NULL", alert.subject.parts
    ).fetchone()
    if known is not None:
        connection.execute(
            "UPDATE alerts SET severity = ?, summary = ?, details = ?, seen_at = ? WHERE number = ?",
            (*content, now, known[0]),
        )
        return int(known[0])
    (before,) = connection.execute(f"SELECT count(*) FROM alerts {of_subject}", alert.subject.parts).fetchone()
    at = alert.at.astimezone(timezone.utc).isoformat()
    made = connection.execute(
        "INSERT INTO alerts (id, kind, name, occasion, severity, summary, details, at, seen_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (alert.id(before), *alert.subject.parts, *content, at, now),
    )
    assert made.lastrowid is not None
    return made.lastrowid


def _record_resolved(connection: sqlite3.Connection, subject: Subject, now: float) -> None:
    assert subject.kind in LASTING, subject
    known = connection.execute(
        "UPDATE alerts SET ended_at = ? WHERE kind = ? AND name = ? AND occasion = ? AND ended_at IS NULL "
        "RETURNING number",
        (now, *subject.parts),
    ).fetchone()
    if known is not None:
        connection.execute(
            "INSERT INTO notices SELECT DISTINCT alert, sink, 'resolved', 0, ?, NULL FROM notices WHERE alert = ?",
            (now, known[0]),
        )


def read_noted_alerts(settings: Settings) -> list[Alert]:
    """The open alerts of the journal; none if nothing was recorded yet."""
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
