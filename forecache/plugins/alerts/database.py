"""The database of alerts: SQLite in the home folder, safe under kills and for several processes at once.

A new alert becomes one notice for each receiver ("sink" in the schema), in one transaction. Notices that are sent
together become a message with an id in a second transaction, before anything is sent; a third records that the receiver
accepted it. If a process ends in between, the same message is sent again with the same id.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from forecache.base.settings import Settings

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
