"""The writer of a stream: frames are appended to a segment, which is closed when it is large or old.

A frame is a magic of four bytes, the length of its content (uint32), its number in the stream (uint64), the XXH3-64 of
its content with a seed made of length and number, and the content; all little-endian. So a torn or changed frame is
detected, and only it is lost.
"""

import os
import secrets
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import xxhash

from forecache.base.files import try_lock
from forecache.base.steps import log_step
from forecache.realtime.log.spool_files import LOCK, SpoolSegment, WriterNote, new_segment, segments_of, write_note

_MAGIC = b"\xf7LOG"
_HEAD = struct.Struct("<4sIQQ")
_MASK = 2**64 - 1
MOST_BYTES = 1 << 28
"""Largest content of a frame; a larger length is damage."""


@dataclass
class SegmentLosses:
    rows: int = 0  # frames that are missing by their numbers, or incomplete at the end
    changed: bool = False  # True if bytes before the end are damaged


HEAD_BYTES = _HEAD.size


def frame_head(content: bytes, number: int) -> bytes:
    """Encode the head of a frame, which precedes its content."""
    size = len(content)
    return _HEAD.pack(_MAGIC, size, number, xxhash.xxh3_64_intdigest(content, _seed(size, number)))


def encode_frame(content: bytes, number: int) -> bytes:
    return frame_head(content, number) + content


def whole_frames(data: memoryview, most: int) -> tuple[int, int]:
    """Return how many of these whole frames fit into the first `most` bytes, and the end of the last that fits."""
    count = at = 0
    while at < len(data):
        end = at + HEAD_BYTES + int(_HEAD.unpack_from(data, at)[1])
        if end > most:
            break
        count, at = count + 1, end
    return count, at


def read_frames(data: bytes, losses: SegmentLosses, *, first: int | None = None) -> Iterator[tuple[int, memoryview]]:
    """Read the whole frames of a segment with their numbers, in their order.

    Args:
        first: Number of the segment's first frame; None: that of the first frame found.
    """
    view, at, expected = memoryview(data), 0, first
    while at < len(data):
        end = _end_of_frame(view, at)
        if end:
            number = _HEAD.unpack_from(view, at)[2]
            # A repeated number was written again after a write that failed halfway.
            if expected is None or number >= expected:
                losses.rows += 0 if expected is None else number - expected
                expected = number + 1
                yield number, view[at + _HEAD.size : end]
            at = end
            continue
        found = data.find(_MAGIC, at + 1)
        if found < 0:
            # Killed while writing, or the disk was full: one incomplete frame, and none after it.
            losses.rows += 1
            return
        losses.changed = True
        at = found


def _end_of_frame(view: memoryview, at: int) -> int:
    """Return the end of the whole frame at an offset; 0 if there is none."""
    if at + _HEAD.size > len(view):
        return 0
    magic, size, number, checksum = _HEAD.unpack_from(view, at)
    start = at + _HEAD.size
    if magic != _MAGIC or size > MOST_BYTES or start + size > len(view):
        return 0
    content = view[start : start + size]
    return start + size if xxhash.xxh3_64_intdigest(content, _seed(size, number)) == checksum else 0


def _seed(size: int, number: int) -> int:
    return (number * 0x9E3779B97F4A7C15 + size) & _MASK


SEGMENT_BYTES = 16 << 20
_MOST_WAITING = 16
"""A segment is not closed for its age while so many wait for the committer: a lake that is unavailable for a day would
otherwise lead to tens of thousands of them."""


class SpoolStream:
    """A stream of the spool, open for writing.

    Args:
        replica: host:port#worker of the writer, for the log's rows.

    Raises:
        OSError: The folder cannot be made.
    """

    def __init__(self, model: Path, *, replica: str, most_age_s: float) -> None:
        self._most_age_s, self._replica = most_age_s, replica
        name = secrets.token_hex(16)
        new, self.folder = model / f".{name}", model / name
        new.mkdir(parents=True)
        self._lock = os.open(new / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
        try:
            if not try_lock(self._lock):
                raise BlockingIOError(f"Another process has locked {new}.")
            write_note(self._lock, WriterNote(replica))
            # Renamed with the lock held: to a committer, a stream without a held lock is one whose writer has ended.
            new.rename(self.folder)
        except BaseException:
            os.close(self._lock)
            raise
        self._number = 0
        self._segment: SpoolSegment | None = None
        self._file = -1
        self._rows = self._bytes = 0
        self._began = 0.0

    def write(self, frames: memoryview, rows: int, first: int) -> int:
        """Write whole frames to the segment; return how many were written, fewer if the disk took no more."""
        try:
            if self._segment is None:
                self._open(first)
            done = 0
            while done < len(frames):
                done += os.write(self._file, frames[done:])
        except OSError as error:
            kept = self._cut_torn_frame(frames)
            # The numbers of later frames do not follow those in this segment.
            self.close_segment()
            self.failure = error
            return kept
        self._rows += rows
        self._bytes += len(frames)
        log_step("frames written")
        return rows

    failure: OSError | None = None
    """Error of the last write that failed."""

    def _open(self, first: int) -> None:
        self._number += 1
        segment = new_segment(self.folder, self._number, first)
        self._file = os.open(segment.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_APPEND)
        self._segment, self._rows, self._bytes, self._began = segment, 0, 0, monotonic()

    def _cut_torn_frame(self, frames: memoryview) -> int:
        """Truncate the segment after its last whole frame; return how many of these frames are in it."""
        if self._segment is None:
            return 0
        with suppress(OSError):
            kept, size = whole_frames(frames, os.fstat(self._file).st_size - self._bytes)
            self._rows += kept
            self._bytes += size
            os.ftruncate(self._file, self._bytes)
            return kept
        return 0

    def write_losses(self, lost: Mapping[str, int]) -> None:
        """Record the lost rows beside the segments, for processes without the reader's metrics."""
        with suppress(OSError):
            write_note(self._lock, WriterNote(self._replica, lost))

    def close_due_segment(self) -> None:
        """Close the segment if it is large, or if it is old and the committer keeps up."""
        if self._segment is None:
            return
        is_old = monotonic() - self._began >= self._most_age_s
        if self._bytes >= SEGMENT_BYTES or (is_old and len(segments_of(self.folder)) <= _MOST_WAITING):
            self.close_segment()

    @property
    def is_open(self) -> bool:
        return self._segment is not None

    def close_segment(self) -> None:
        segment, self._segment = self._segment, None
        if segment is None:
            return
        os.close(self._file)
        # If it fails, the committer takes the segment as it is once there is a later one or this process has ended.
        with suppress(OSError):
            if self._rows:
                os.rename(segment.path, segment.as_closed(self._rows).path)
                log_step("segment closed")
            else:
                segment.path.unlink()

    def close(self) -> None:
        self.close_segment()
        os.close(self._lock)
