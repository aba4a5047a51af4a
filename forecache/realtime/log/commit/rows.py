"""Rows of a request log: read from segments of the spool, and written as data files by day."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import pyarrow as pa

from forecache.realtime.log.packing import unpacked
from forecache.realtime.log.record import DAY, schema
from forecache.realtime.log.spool.files import LOCK, Segment
from forecache.realtime.log.spool.frames import Losses, read_frames
from forecache.realtime.log.spool.note import read_note

EXPIRED_DAYS = 30
"""Rows older than this are dropped: the table may have forgotten their stream."""
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Count:
    """Rows of one segment: read, dropped as too old, and unreadable."""

    rows: int
    expired: int
    damaged: int


@dataclass(frozen=True)
class Read:
    """The rows of some segments.

    Attributes:
        days: Rows by ISO date, without the day column.
        counts: Of each segment, in their order.
        newest_us: Arrival of the newest row, in microseconds since 1970; 0 if there are no rows.
    """

    days: Mapping[str, pa.Table]
    counts: Sequence[Count]
    newest_us: int


def read_segments(segments: Sequence[Segment]) -> Read:
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
        counts.append(Count(len(found) - expired, expired, damaged))
    stored = schema().remove(schema().get_field_index(DAY))
    return Read({day: _table(some, stored) for day, some in sorted(by_day.items())}, counts, newest_us)


def _rows_of(segment: Segment) -> tuple[list[dict[str, Any]], int]:
    """Read the rows of a segment, and count the unreadable ones."""
    data = segment.path.read_bytes()
    replica = read_note(segment.path.parent / LOCK).replica
    losses, found = Losses(), []
    for _, content in read_frames(data, losses, first=segment.first):
        try:
            found.append({**unpacked(content), "replica": replica})
        except (ValueError, struct.error, KeyError):
            losses.rows += 1
    return found, losses.rows if segment.rows is None else max(0, segment.rows - len(found))


def _table(rows: Sequence[Mapping[str, Any]], stored: pa.Schema) -> pa.Table:
    return pa.table([pa.array([row[each.name] for row in rows], each.type) for each in stored], schema=stored)
