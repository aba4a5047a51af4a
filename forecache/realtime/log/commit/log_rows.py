"""Rows of a request log: read from segments of the spool, and written as data files by day."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

import pyarrow as pa

from forecache.base.settings import Settings
from forecache.kit.delta.files import DataFile, new_path, place_of, retry_write, write_file
from forecache.kit.delta.writers import new_folder
from forecache.realtime.log.packing import unpack_answer
from forecache.realtime.log.record import DAY, TIMES, schema, table_of
from forecache.realtime.log.spool.frames import SegmentLosses, read_frames
from forecache.realtime.log.spool.spool_files import LOCK, SpoolSegment, read_note

EXPIRED_DAYS = 30
"""Rows older than this are dropped: the table may have forgotten their stream."""
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class SegmentCount:
    """Rows of one segment: read, dropped as too old, and unreadable."""

    rows: int
    expired: int
    damaged: int


@dataclass(frozen=True)
class SegmentRows:
    """The rows of some segments.

    Attributes:
        days: Rows by ISO date, without the day column.
        counts: Of each segment, in their order.
        newest_us: Arrival of the newest row, in microseconds since 1970; 0 if there are no rows.
    """

    days: Mapping[str, pa.Table]
    counts: Sequence[SegmentCount]
    newest_us: int


def read_segments(segments: Sequence[SpoolSegment]) -> SegmentRows:
    """Read the rows of finished segments.

    Raises:
        FileNotFoundError: Another committer has removed one.
    """
    by_day: dict[str, list[dict[str, Any]]] = {}
    counts, newest_us = [], 0
    oldest = datetime.now(timezone.utc).date() - timedelta(days=EXPIRED_DAYS)
    for segment in segments:
        found, damaged = _rows_of(segment)
        expired = 0
        for row in found:
            day = (_EPOCH + timedelta(microseconds=row["arrived_at"])).date()
            if day < oldest:
                expired += 1
                continue
            newest_us = max(newest_us, row["arrived_at"])
            by_day.setdefault(day.isoformat(), []).append(row)
        counts.append(SegmentCount(len(found) - expired, expired, damaged))
    stored = schema().remove(schema().get_field_index(DAY))
    return SegmentRows({day: _table(some, stored) for day, some in sorted(by_day.items())}, counts, newest_us)


def _rows_of(segment: SpoolSegment) -> tuple[list[dict[str, Any]], int]:
    """Read the rows of a segment, and count the unreadable ones."""
    data = segment.path.read_bytes()
    replica = read_note(segment.path.parent / LOCK).replica
    losses, found = SegmentLosses(), []
    for _, content in read_frames(data, losses, first=segment.first):
        try:
            found.append({**unpack_answer(content), "replica": replica})
        except (ValueError, struct.error, KeyError):
            losses.rows += 1
    return found, losses.rows if segment.rows is None else max(0, segment.rows - len(found))


def _table(rows: Sequence[Mapping[str, Any]], stored: pa.Schema) -> pa.Table:
    return pa.table([pa.array([row[each.name] for row in rows], each.type) for each in stored], schema=stored)


_ALIKE = ["release", "model_version", "arm", "score_dtype", "rung", "why", "replica", "items", "deadline_ms"]
_BOUNDS = ["request_id", "arrived_at", "key", "release", "model_version", "arm", "rung", "late", *TIMES]
PARQUET: Mapping[str, Any] = {
    "group_rows": 8192,
    "compression": "zstd",
    "compression_level": 1,
    "use_dictionary": _ALIKE,
    "write_statistics": _BOUNDS,
}
"""Options of `forecache.kit.delta.files.write_file`."""


def write_day(settings: Settings, name: str, day: str, rows: pa.Table) -> DataFile:
    """Write rows of a day, without the day column, as one data file that is not yet committed."""
    filesystem, path = place_of(settings, table_of(name)).open(), new_path(new_folder(), {DAY: day})
    write = partial(write_file, filesystem, path, rows.schema, [rows], **PARQUET)
    return retry_write(write, is_remote=settings.lake_is_remote)
