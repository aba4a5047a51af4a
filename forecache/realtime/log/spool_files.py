"""The files of the spool, the segments that a committer may take, and what writers and committers note beside them.

    request_log/<model>/<stream>/lock                           held by the writer of the stream for as long as it lives
    request_log/<model>/<stream>/<segment>-<first>.open         being written
    request_log/<model>/<stream>/<segment>-<first>-<rows>.log   complete
    request_log/<model>/committer.json                          figures, in which each segment is counted once

A stream has one writer, which starts a new stream whenever it starts. Its segments are numbered from 1 on. The lock
file has a note of its writer: who it is, and how many rows it lost. Its size is fixed, so that it can be rewritten on a
full disk. The figures are replaced after a commit, before the segments are removed: after a kill in between, the
segments are counted when they are found again.
"""

import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from forecache.base.files import is_locked, write_durably
from forecache.base.settings import Settings
from forecache.base.table_names import NAME

LOCK = "lock"
_SEGMENT = re.compile(r"(\d{12})-(\d{20})(?:-(\d{12}))?\.(open|log)")
_UNFINISHED_S = 3600.0
_STREAM = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class SpoolSegment:
    path: Path
    stream: str
    number: int  # in its stream, from 1 on
    first: int  # number of its first frame
    rows: int | None  # number of frames; None if the writer ended before it closed the segment

    def as_closed(self, rows: int) -> "SpoolSegment":
        """Return the segment with its name after completion."""
        path = self.path.with_name(f"{self.number:012d}-{self.first:020d}-{rows:012d}.log")
        return SpoolSegment(path, self.stream, self.number, self.first, rows)


def new_segment(folder: Path, number: int, first: int) -> SpoolSegment:
    return SpoolSegment(folder / f"{number:012d}-{first:020d}.open", folder.name, number, first, None)


def spooled_models(spool: Path) -> list[str]:
    with suppress(FileNotFoundError), os.scandir(spool) as entries:
        return sorted(entry.name for entry in entries if NAME.fullmatch(entry.name))
    return []


def streams_of(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if _STREAM.fullmatch(entry.name))
    return []


def segments_of(stream: Path) -> list[SpoolSegment]:
    """List the segments of a stream in the order of their numbers."""
    found = []
    with suppress(FileNotFoundError), os.scandir(stream) as entries:
        for entry in entries:
            if name := _SEGMENT.fullmatch(entry.name):
                number, first, rows = int(name[1]), int(name[2]), name[3]
                found.append(
                    SpoolSegment(Path(entry.path), stream.name, number, first, None if rows is None else int(rows))
                )
    return sorted(found, key=lambda each: each.number)


def size_of(segment: SpoolSegment) -> int:
    """Return the bytes of a segment; 0 if it was renamed or removed."""
    try:
        return segment.path.stat().st_size
    except FileNotFoundError:
        return 0


def ready_segments(stream: Path) -> tuple[list[SpoolSegment], bool]:
    """List the finished segments of a stream in their order; also return True if its writer has ended."""
    has_ended = not is_locked(stream / LOCK)  # the lock is created before the folder gets its name
    # Listed after the check of the writer: all segments of an ended writer are there.
    found = segments_of(stream)
    if has_ended:
        return found, True
    last = max((each.number for each in found), default=0)
    return [each for each in found if each.rows is not None or each.number < last], False


def remove_stream(stream: Path) -> None:
    """Remove the folder of a stream that has ended and has no segments left."""
    with suppress(OSError):
        if not segments_of(stream):
            (stream / LOCK).unlink(missing_ok=True)
            stream.rmdir()


def remove_unfinished(folder: Path) -> None:
    """Remove the folders of writers that were killed before their stream got its name."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") and _STREAM.fullmatch(entry.name[1:]):
                with suppress(OSError):
                    if time.time() - entry.stat().st_mtime > _UNFINISHED_S and not is_locked(Path(entry.path) / LOCK):
                        (Path(entry.path) / LOCK).unlink(missing_ok=True)
                        os.rmdir(entry.path)


def spooled_bytes(spool: Path) -> int:
    return sum(size for _, size in _sizes(spool))


def _sizes(spool: Path) -> Iterator[tuple[str, int]]:
    for name in spooled_models(spool):
        for stream in streams_of(spool / name):
            with suppress(FileNotFoundError), os.scandir(stream) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        yield entry.path, entry.stat().st_size


_BYTES = 512


@dataclass(frozen=True)
class WriterNote:
    """The note of a writer."""

    replica: str = ""
    lost: Mapping[str, int] = field(default_factory=dict)  # by reason; with those of a killed writer before it


def write_note(descriptor: int, note: WriterNote) -> None:
    """Overwrite the note in an open lock file; a partly written note is read as an empty one."""
    text = json.dumps({"replica": note.replica[:200], "lost": dict(note.lost)}).encode()
    os.pwrite(descriptor, text.ljust(_BYTES), 0)


def read_note(file: Path) -> WriterNote:
    """Read the note in a lock file; an empty one if the file is missing or incomplete."""
    try:
        return WriterNote(**json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        return WriterNote()


_FILE = "committer.json"


@dataclass
class CommitterState:
    """The figures of a model's log."""

    commits: int = 0  # number of commits with rows
    rows: int = 0  # rows committed
    lost_damaged: int = 0  # rows in the spool that could not be read: torn by a kill, or changed
    lost_expired: int = 0  # rows that were too old when they were committed
    lag_s: float = 0.0  # seconds from the arrival of the newest row of the last commit until it was in the table
    committed_at: float = 0.0  # Unix time of the last commit
    failing_since: float = 0.0  # Unix time since which commits fail; 0: they succeed
    failure: str = ""  # error of the last failed commit
    lost_by_writers: dict[str, int] = field(default_factory=dict)  # rows lost by writers that have ended, by reason
    settled: list[str] = field(default_factory=list)  # ended, still there, losses counted
    counted: dict[str, int] = field(default_factory=dict)  # last segment by stream


def read_state(folder: Path) -> CommitterState:
    """Read the committer state in a model's folder of the spool; a new one if it is missing or damaged."""
    with suppress(OSError, ValueError, TypeError):
        return CommitterState(**json.loads((folder / _FILE).read_bytes()))
    return CommitterState()


def write_state(folder: Path, state: CommitterState) -> None:
    """Replace the committer state; on a full disk the old one stays."""
    with suppress(OSError):
        write_durably(folder / _FILE, json.dumps(asdict(state)))


def lost_rows(settings: Settings, name: str) -> dict[str, int]:
    """Count the rows of a model's log that were lost here, by reason, since its folder in the spool was made.

    The reasons are those of the metric `forecache_request_log_rows_lost_total`. Losses of a writer that could not
    create its folder are not included.
    """
    folder = settings.request_log_path / name
    state = read_state(folder)
    found = Counter({"damaged": state.lost_damaged, "expired": state.lost_expired})
    found.update(state.lost_by_writers)
    for stream in streams_of(folder):
        if stream.name not in state.settled:
            found.update(read_note(stream / LOCK).lost)
    return {reason: lost for reason, lost in sorted(found.items()) if lost}
