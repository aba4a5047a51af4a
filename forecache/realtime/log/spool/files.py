"""Where the spool's files lie, and which of them a committer may take.

    request_log/<model>/<stream>/lock                           held by the writer of the stream for as long as it lives
    request_log/<model>/<stream>/<segment>-<first>.open         written at the moment
    request_log/<model>/<stream>/<segment>-<first>-<rows>.log   complete

A stream has one writer, which makes a new one whenever it starts. Its segments are numbered from 1 on.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from forecache.files import try_lock
from forecache.names import NAME

LOCK = "lock"
_SEGMENT = re.compile(r"(\d{12})-(\d{20})(?:-(\d{12}))?\.(open|log)")
_UNFINISHED_S = 3600.0
_STREAM = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Segment:
    """A file of a stream.

    Attributes:
        number: In its stream, from 1 on.
        first: Number of its first frame.
        rows: How many frames it has; None where its writer did not say, since it ended before.
    """

    path: Path
    stream: str
    number: int
    first: int
    rows: int | None

    def closed(self, rows: int) -> "Segment":
        """The segment as it is called once it is complete."""
        path = self.path.with_name(f"{self.number:012d}-{self.first:020d}-{rows:012d}.log")
        return Segment(path, self.stream, self.number, self.first, rows)


def new_segment(folder: Path, number: int, first: int) -> Segment:
    """A segment that is about to be written."""
    return Segment(folder / f"{number:012d}-{first:020d}.open", folder.name, number, first, None)


def models_in(spool: Path) -> list[str]:
    """Names of the models that have a folder in the spool."""
    with suppress(FileNotFoundError), os.scandir(spool) as entries:
        return sorted(entry.name for entry in entries if NAME.fullmatch(entry.name))
    return []


def streams_of(folder: Path) -> list[Path]:
    """Folders of a model's streams."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if _STREAM.fullmatch(entry.name))
    return []


def segments_of(stream: Path) -> list[Segment]:
    """The files of a stream in the order of their numbers."""
    found = []
    with suppress(FileNotFoundError), os.scandir(stream) as entries:
        for entry in entries:
            if name := _SEGMENT.fullmatch(entry.name):
                number, first, rows = int(name[1]), int(name[2]), name[3]
                found.append(Segment(Path(entry.path), stream.name, number, first, None if rows is None else int(rows)))
    return sorted(found, key=lambda each: each.number)


def size_of(segment: Segment) -> int:
    """Bytes of a segment; 0 where it has another name by now, or is gone."""
    try:
        return segment.path.stat().st_size
    except FileNotFoundError:
        return 0


def ready_of(stream: Path) -> tuple[list[Segment], bool]:
    """The segments of a stream that nobody writes any more, in their order, and whether its writer has ended."""
    has_ended = _has_ended(stream)
    # Listed after the look at the writer: what one that has ended left is all there.
    found = segments_of(stream)
    if has_ended:
        return found, True
    last = max((each.number for each in found), default=0)
    return [each for each in found if each.rows is not None or each.number < last], False


def _has_ended(stream: Path) -> bool:
    try:
        descriptor = os.open(stream / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True  # it is made before the folder has its name
    try:
        return try_lock(descriptor)
    finally:
        os.close(descriptor)


def remove_stream(stream: Path) -> None:
    """Remove the folder of a stream that has ended and has no segments left."""
    with suppress(OSError):
        if not segments_of(stream):
            (stream / LOCK).unlink(missing_ok=True)
            stream.rmdir()


def remove_unfinished(folder: Path) -> None:
    """Remove what writers have left that were killed before their stream had its name."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") and _STREAM.fullmatch(entry.name[1:]):
                with suppress(OSError):
                    if time.time() - entry.stat().st_mtime > _UNFINISHED_S and _has_ended(Path(entry.path)):
                        (Path(entry.path) / LOCK).unlink(missing_ok=True)
                        os.rmdir(entry.path)


def spooled_bytes(spool: Path) -> int:
    """Size of all segments in a spool."""
    return sum(size for _, size in _sizes(spool))


def _sizes(spool: Path) -> Iterator[tuple[str, int]]:
    for name in models_in(spool):
        for stream in streams_of(spool / name):
            with suppress(FileNotFoundError), os.scandir(stream) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        yield entry.path, entry.stat().st_size
