"""Tables that streams append to: what a new one is told of its log, and which of its hours are closed.

An engine commits once a second, 86,400 times a day. So the log is short: entries are removed after a day, each
hundredth commit writes a checkpoint, and what was merged away is forgotten after a day too. Nothing needs old versions
of these tables: a row says by its `position` which commit wrote it, so that the rows up to a position are what the
table was then.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow.parquet as pq

from forecache.lake.delta.files import DataFile, place_of
from forecache.lake.delta.log import active_files, open_if_exists
from forecache.lake.delta.read_errors import open_data_file
from forecache.pipeline.names import REQUEST_LOG, STREAM
from forecache.settings import Settings

if TYPE_CHECKING:
    from deltalake import DeltaTable

HOUR, BASE = "hour", "base"
"""The partition column: the hour (UTC) of the commit, as 2026-01-01T13; the column that names the nights of views that
a row stands on, such as "customer=2026-01-01@17,terminal=" where the second view has no night yet."""
RECOMPUTABLE = timedelta(days=30)
"""Maintenance keeps the nights that rows of so many days stand on."""
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


def has_short_log(name: str) -> bool:
    """The log goes back a day only, and nothing names older versions: a stream's table, or a request log."""
    return is_stream_table(name) or name.startswith(REQUEST_LOG)


def hour_of(at: datetime) -> str:
    """The partition of rows that are committed at a time."""
    return at.astimezone(timezone.utc).strftime("%Y-%m-%dT%H")


def is_closed(hour: str | None, now: datetime) -> bool:
    """Whether no commit adds rows to an hour any more."""
    return hour is not None and hour < hour_of(now - _CLOSED_AFTER)


def in_order(delta: "DeltaTable", files: Sequence[DataFile]) -> list[DataFile]:
    """Files by the lowest position of their rows, so that files which are merged in this order keep it."""
    actions = delta.get_add_actions(flatten=True)
    if "min.position" not in actions.schema.names:
        return list(files)
    lowest = zip(actions.column("path").to_pylist(), actions.column("min.position").to_pylist(), strict=True)
    first = {unquote(path): -1 if position is None else position for path, position in lowest}
    return sorted(files, key=lambda file: (first.get(file.path, -1), file.path))


def nights_of(base: str) -> dict[str, str]:
    """By view, the night that a row with this `base` stands on, `as_of@delta_version`; "" before the view's first."""
    return dict(each.split("=", 1) for each in base.split(",") if each)


def stream_bases(settings: Settings, table: str) -> set[str]:
    """The distinct values of `base` in the rows of the last days; none where there is no table."""
    delta = open_if_exists(settings, table)
    if delta is None:
        return set()
    since = hour_of(datetime.now(timezone.utc) - RECOMPUTABLE)
    files = [file for file in active_files(delta) if (file.partition.get(HOUR) or "") >= since]
    filesystem, found = place_of(settings, table).open(), set[str]()
    for file in files:
        with open_data_file(filesystem, file.path, table) as source:
            rows = pq.ParquetFile(source, read_dictionary=[BASE]).read(columns=[BASE], use_threads=False)
            found |= {base for base in rows[BASE].unique().to_pylist() if base}
    return found
