"""Commit the finished segments in the spool of a model's log, in one Delta version, exactly once.

Each stream is a transaction application of Delta (`txn`): a version of the table records the last committed segment of
each stream. So a committer that was killed after its commit, or a second one, learns from the table at each attempt
which segments are committed, and no other state is needed.
"""

import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from forecache.base.settings import Settings
from forecache.base.steps import log_step
from forecache.kit.delta.commit import Change, TableState, Target, commit
from forecache.kit.delta.files import DataFile, new_path, place_of, retry_write, write_file
from forecache.kit.delta.log import open_if_exists
from forecache.kit.delta.stream_tables import STREAM_PROPERTIES
from forecache.kit.delta.writers import new_folder
from forecache.realtime.log.record import DAY, TIMES, schema, table_of, unpack_answer
from forecache.realtime.log.spool_files import (
    LOCK,
    SpoolSegment,
    read_note,
    read_state,
    ready_segments,
    remove_stream,
    remove_unfinished,
    segments_of,
    streams_of,
    write_state,
)
from forecache.realtime.log.spool_stream import SegmentLosses, read_frames

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
    days: Mapping[str, pa.Table]  # rows by ISO date, without the day column
    counts: Sequence[SegmentCount]  # of each segment, in their order
    newest_us: int  # arrival of the newest row, in microseconds since 1970; 0 if there are no rows


def read_segments(segments: Sequence[SpoolSegment]) -> SegmentRows:
    """Read the rows of finished segments. Raises `FileNotFoundError`: another committer has removed one."""
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


_ALIKE = [
    "release",
    "model_version",
    "variant",
    "score_dtype",
    "answered_by",
    "fallback_reason",
    "replica",
    "items",
    "deadline_ms",
]
_BOUNDS = ["request_id", "arrived_at", "key", "release", "model_version", "variant", "answered_by", "late", *TIMES]
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


BATCH_BYTES = 32 << 20
"""Approximate size of the segments in one commit."""
TRANSACTIONS_KEPT_DAYS = 60
"""The table forgets streams that were not written for so long; segments are never kept so long."""
_CONFIGURATION = {  # it is committed to every few seconds, as a stream's table is
    **STREAM_PROPERTIES,
    "delta.setTransactionRetentionDuration": f"interval {TRANSACTIONS_KEPT_DAYS} days",
}
_TRIES = 10


class _OtherCommitterError(Exception):
    """Another committer has committed some of the segments meanwhile."""


@dataclass(frozen=True)
class LogCommitResult:
    rows: int  # rows added to the table
    segments: int  # segments removed from the spool


def commit_ready(settings: Settings, name: str) -> LogCommitResult:
    """Commit finished segments of a model's log, and remove them from the spool, which is unchanged after an error."""
    folder = settings.request_log_path / name
    for _ in range(_TRIES):
        batch, ended = _collect_batch(folder)
        if not batch:
            _remove_ended_streams(folder, ended)
            remove_unfinished(folder)
            return LogCommitResult(0, 0)
        try:
            rows = _commit_batch(settings, name, folder, batch)
        except _OtherCommitterError:
            continue
        for segment in batch:
            segment.path.unlink(missing_ok=True)
            log_step("segment removed")
        _remove_ended_streams(folder, ended)
        return LogCommitResult(rows, len(batch))
    return LogCommitResult(0, 0)  # other committers are committing the segments


def _collect_batch(folder: Path) -> tuple[list[SpoolSegment], list[Path]]:
    """Collect segments for one commit, in order within a stream, and the streams whose writers have ended."""
    batch: list[SpoolSegment] = []
    ended, size = [], 0
    for stream in streams_of(folder):
        segments, has_ended = ready_segments(stream)
        if has_ended:
            ended.append(stream)
        for segment in segments:
            if batch and size >= BATCH_BYTES:
                break
            try:
                size += segment.path.stat().st_size
            except FileNotFoundError:
                break  # closed or removed since; later segments of the stream wait for it
            batch.append(segment)
    return batch, ended


def _commit_batch(settings: Settings, name: str, folder: Path, batch: Sequence[SpoolSegment]) -> int:
    """Commit the segments that are not in the table yet, and count all of them; return the number of new rows."""
    table = open_if_exists(settings, table_of(name))
    known = {stream: _last_segment_number(table, stream) for stream in {segment.stream for segment in batch}}
    new = [segment for segment in batch if segment.number > known[segment.stream]]
    read = _read_batch(new)
    files = [write_day(settings, name, day, rows) for day, rows in read.days.items()]
    log_step("rows written")
    if new:
        _commit_files(settings, name, new, files)
        log_step("rows committed")
    _update_figures(folder, batch, new, read)
    return sum(count.rows for count in read.counts)


def _read_batch(segments: Sequence[SpoolSegment]) -> SegmentRows:
    """Read segments. A missing segment was taken by another committer; a missing file of the lake is a failure."""
    try:
        return read_segments(segments)
    except FileNotFoundError:
        raise _OtherCommitterError from None


def _update_figures(
    folder: Path, batch: Sequence[SpoolSegment], new: Sequence[SpoolSegment], read: SegmentRows
) -> None:
    """Add each segment to the figures once; a segment committed by a killed committer is read again for that."""
    state, now = read_state(folder), time.time()
    known = dict(zip(new, read.counts, strict=True))
    for segment in batch:
        if segment.number > state.counted.get(segment.stream, 0):
            count = known[segment] if segment in known else _read_batch([segment]).counts[0]
            state.rows += count.rows
            state.lost_expired += count.expired
            state.lost_damaged += count.damaged
            state.counted[segment.stream] = segment.number
    here = {stream.name for stream in streams_of(folder)}
    state.settled = [stream for stream in state.settled if stream in here]
    state.counted = {stream: number for stream, number in state.counted.items() if stream in here}
    state.commits += bool(new)
    state.committed_at, state.failing_since, state.failure = now, 0.0, ""
    if read.newest_us:
        state.lag_s = max(0.0, now - read.newest_us / 1e6)
    write_state(folder, state)
    log_step("counted")


def _commit_files(settings: Settings, name: str, segments: Sequence[SpoolSegment], files: Sequence[DataFile]) -> None:
    from deltalake import Schema

    first = {segment.stream: segment.number for segment in reversed(segments)}
    last = {segment.stream: segment.number for segment in segments}

    def choose_change(state: TableState) -> Change:
        for stream, number in first.items():
            if _last_segment_number(state.delta, stream) >= number:
                raise _OtherCommitterError
        return Change(files, transactions={_application(stream): number for stream, number in last.items()})

    target = Target(
        settings, table_of(name), Schema.from_arrow(schema()), (DAY,), keep_log=False,
        configuration=_CONFIGURATION,
    )  # fmt: skip
    commit(target, choose_change)


def _last_segment_number(table: object, stream: str) -> int:
    number = None if table is None else table.transaction_version(_application(stream))  # type: ignore[attr-defined]
    return number or 0


def _application(stream: str) -> str:
    return f"forecache-request-log-{stream}"


def _remove_ended_streams(folder: Path, ended: Sequence[Path]) -> None:
    """Remove streams that have ended and are empty, after adding their losses to the figures."""
    empty = [stream for stream in ended if not segments_of(stream)]
    if not empty:
        return
    state = read_state(folder)
    for stream in empty:
        if stream.name not in state.settled:
            state.settled.append(stream.name)
            for reason, lost in read_note(stream / LOCK).lost.items():
                state.lost_by_writers[reason] = state.lost_by_writers.get(reason, 0) + lost
    write_state(folder, state)
    for stream in empty:
        remove_stream(stream)
