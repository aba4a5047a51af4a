"""Tables that streams append to: what a new one is told of its log, and which of its hours are closed.

An engine commits once a second, 86,400 times a day. So the log is short: entries are removed after a day, each hundredth
commit writes a checkpoint, and what was merged away is forgotten after a day too. Nothing needs old versions of these
tables: a row says by its `position` which commit wrote it, so that the rows up to a position are what the table was then.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone

from forecache.pipeline.names import STREAM

HOUR = "hour"
"""The partition column: the hour (UTC) of the commit, as 2026-01-01T13."""
KEPT = timedelta(days=1)
"""How long the log and merged files are kept: the longest time that a tailer may be down and still go on by the log."""
STREAM_PROPERTIES: Mapping[str, str] = {
    "delta.logRetentionDuration": "interval 1 days",
    "delta.deletedFileRetentionDuration": "interval 1 days",
    "delta.checkpointInterval": "100",
}
"""`configuration` of a new table, with `keep_log=False`; see `forecache.lake.delta.commit.Target`."""
_CLOSED_AFTER = timedelta(minutes=5)
"""A commit may be of the hour in which its batch began."""


def is_stream_table(name: str) -> bool:
    """Whether a stream writes the table: its rows, or its quarantine."""
    return name.startswith(STREAM)


def hour_of(at: datetime) -> str:
    """The partition of rows that are committed at a time."""
    return at.astimezone(timezone.utc).strftime("%Y-%m-%dT%H")


def is_closed(hour: str | None, now: datetime) -> bool:
    """Whether no commit adds rows to an hour any more."""
    return hour is not None and hour < hour_of(now - _CLOSED_AFTER)
