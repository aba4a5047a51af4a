"""Tables that streams append to: their Delta properties, their closed hours, and the as-of dates that their rows use.

An engine commits once a second, 86,400 times a day. So the log is short: entries are removed after a day, each
hundredth commit writes a checkpoint, and tombstones of merged files expire after a day too. Old versions of these
tables are not needed: the `position` of a row tells which commit wrote it, so the rows up to a position are the table
as it was then.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow.parquet as pq

from forecache.base.settings import Settings
from forecache.base.table_names import REQUEST_LOG, STREAM
from forecache.kit.delta.errors import open_data_file
from forecache.kit.delta.files import DataFile, place_of
from forecache.kit.delta.log import active_files, open_if_exists

if TYPE_CHECKING:
    from deltalake import DeltaTable

HOUR, FEATURE_VERSION = "hour", "feature_version"
"""The partition column: the hour (UTC) of the commit, as 2026-01-01T13; and the column that names the as-of dates of
views from which a row was computed, such as "customer=2026-01-01@17,terminal=" if the second view has none yet."""
RECOMPUTABLE = timedelta(days=30)
"""Maintenance keeps the feature versions that rows of the last so many days were computed from."""
KEPT = timedelta(days=1)
"""Retention of the log and of merged files: a tailer that was down for longer cannot continue from the log."""
STREAM_PROPERTIES: Mapping[str, str] = {
    "delta.logRetentionDuration": "interval 1 days",
    "delta.deletedFileRetentionDuration": "interval 1 days",
    "delta.checkpointInterval": "100",
}
"""`configuration` of a new table, with `keep_log=False`; see `forecache.kit.delta.commit.Target`."""
_CLOSED_AFTER = timedelta(minutes=5)
"""A commit belongs to the hour in which its batch began, and may come so long after the hour's end."""


def is_stream_table(name: str) -> bool:
    """Return whether a stream writes the table: its rows, or its quarantine."""
    return name.startswith(STREAM)


def has_short_log(name: str) -> bool:
    """Return whether the log covers a day only and old versions are not needed: a stream's table or a request log."""
    return is_stream_table(name) or name.startswith(REQUEST_LOG)


def hour_of(at: datetime) -> str:
    """Value of the partition column for rows that are committed at a time."""
    return at.astimezone(timezone.utc).strftime("%Y-%m-%dT%H")


def is_closed(hour: str | None, now: datetime) -> bool:
    """Return whether no later commit adds rows to an hour."""
    return hour is not None and hour < hour_of(now - _CLOSED_AFTER)


def sort_by_position(delta: "DeltaTable", files: Sequence[DataFile]) -> list[DataFile]:
    """Sort files by the lowest position of their rows, so that merging them in this order keeps the rows sorted."""
    actions = delta.get_add_actions(flatten=True)
    if "min.position" not in actions.schema.names:
        return list(files)
    lowest = zip(actions.column("path").to_pylist(), actions.column("min.position").to_pylist(), strict=True)
    first = {unquote(path): -1 if position is None else position for path, position in lowest}
    return sorted(files, key=lambda file: (first.get(file.path, -1), file.path))


def nights_in_base(base: str) -> dict[str, str]:
    """By view, the `as_of@delta_version` that a row was computed from, by its `feature_version`; "" if none."""
    return dict(each.split("=", 1) for each in base.split(",") if each)


def read_stream_bases(settings: Settings, table: str) -> set[str]:
    """Read the distinct `feature_version` of rows of the last `RECOMPUTABLE` days; empty if there is no table."""
    delta = open_if_exists(settings, table)
    if delta is None:
        return set()
    since = hour_of(datetime.now(timezone.utc) - RECOMPUTABLE)
    files = [file for file in active_files(delta) if (file.partition.get(HOUR) or "") >= since]
    filesystem, found = place_of(settings, table).open(), set[str]()
    for file in files:
        with open_data_file(filesystem, file.path, table) as source:
            rows = pq.ParquetFile(source, read_dictionary=[FEATURE_VERSION]).read(
                columns=[FEATURE_VERSION], use_threads=False
            )
            found |= {base for base in rows[FEATURE_VERSION].unique().to_pylist() if base}
    return found
