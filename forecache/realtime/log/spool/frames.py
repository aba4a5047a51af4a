"""Frames of a segment: each with its number and a checksum, so that a torn or changed one is found and lost alone.

A frame is four bytes that begin each, the length of its content (uint32), its number in the stream (uint64), the
XXH3-64 of its content with a seed made of length and number, and the content; all little-endian.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import xxhash

_MAGIC = b"\xf7LOG"
_HEAD = struct.Struct("<4sIQQ")
_MASK = 2**64 - 1
MOST_BYTES = 1 << 28
"""Of a frame's content: a length above it is none."""


@dataclass
class Losses:
    """What could not be read of a segment.

    Attributes:
        rows: Frames that are missing in the numbers, or were begun at the end and not finished.
        changed: Whether bytes before the end were other than written.
    """

    rows: int = 0
    changed: bool = False


HEAD_BYTES = _HEAD.size


def head_of(content: bytes, number: int) -> bytes:
    """What stands before the content of a frame."""
    size = len(content)
    return _HEAD.pack(_MAGIC, size, number, xxhash.xxh3_64_intdigest(content, _seed(size, number)))


def framed(content: bytes, number: int) -> bytes:
    """A frame of some content."""
    return head_of(content, number) + content


def whole_frames(data: memoryview, most: int) -> tuple[int, int]:
    """How many of the first of some whole frames end within so many bytes, and where the last of these does."""
    count = at = 0
    while at < len(data):
        end = at + HEAD_BYTES + int(_HEAD.unpack_from(data, at)[1])
        if end > most:
            break
        count, at = count + 1, end
    return count, at


def read_frames(data: bytes, losses: Losses, *, first: int | None = None) -> Iterator[tuple[int, memoryview]]:
    """The whole frames of a segment with their numbers, in their order.

    Args:
        losses: What is missing is added.
        first: Number of the segment's first frame; None: that of the first one that is found.
    """
    view, at, expected = memoryview(data), 0, first
    while at < len(data):
        end = _end_of(view, at)
        if end:
            number = _HEAD.unpack_from(view, at)[2]
            # A number that comes again was written again, after a write that failed halfway.
            if expected is None or number >= expected:
                losses.rows += 0 if expected is None else number - expected
                expected = number + 1
                yield number, view[at + _HEAD.size : end]
            at = end
            continue
        found = data.find(_MAGIC, at + 1)
        if found < 0:
            # Killed while it was written, or the disk was full: one frame is begun; the ones after it are not here.
            losses.rows += 1
            return
        losses.changed = True
        at = found


def _end_of(view: memoryview, at: int) -> int:
    """Where the whole frame ends that begins at a place; 0 where there is none."""
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
