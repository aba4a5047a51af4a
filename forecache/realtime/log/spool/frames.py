"""Frames of a segment, each with a number and a checksum: a torn or changed frame is detected, and only it is lost.

A frame is a magic of four bytes, the length of its content (uint32), its number in the stream (uint64), the XXH3-64 of
its content with a seed made of length and number, and the content; all little-endian.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import xxhash

_MAGIC = b"\xf7LOG"
_HEAD = struct.Struct("<4sIQQ")
_MASK = 2**64 - 1
MOST_BYTES = 1 << 28
"""Largest content of a frame; a larger length is damage."""


@dataclass
class SegmentLosses:
    """Losses of a segment.

    Attributes:
        rows: Frames that are missing by their numbers, or incomplete at the end.
        changed: True if bytes before the end are damaged.
    """

    rows: int = 0
    changed: bool = False


HEAD_BYTES = _HEAD.size


def frame_head(content: bytes, number: int) -> bytes:
    """Encode the head of a frame, which precedes its content."""
    size = len(content)
    return _HEAD.pack(_MAGIC, size, number, xxhash.xxh3_64_intdigest(content, _seed(size, number)))


def encode_frame(content: bytes, number: int) -> bytes:
    """Encode a frame."""
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
        losses: Missing frames are added to it.
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
