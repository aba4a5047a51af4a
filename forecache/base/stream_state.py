"""The state file of a running stream, which its engine replaces once a second and monitoring reads.

It lies in the folder `HOME/streams/<name>/`, with the lock of the running process and its log.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from forecache.base.files import is_locked, replace_file

STATE, LOCK = "STATE", "LOCK"


@dataclass
class StreamState:
    """Figures of a stream, counted since its process started. Times are Unix times; 0: never."""

    pid: int = 0
    started_at: float = 0.0
    written_at: float = 0.0
    stopped_at: float = 0.0  # 0: it runs, or died
    engine: str = ""
    freshness: str = ""
    offsets: dict[str, int] = field(default_factory=dict)  # after the last committed event, by partition
    end_offsets: dict[str, int] = field(default_factory=dict)  # after the last event in the topic, by partition
    lag_events: int = 0  # in the topic and not committed
    rows: int = 0
    rows_per_s: float = 0.0  # of the last minute
    bad: int = 0  # messages that went to the quarantine
    repeats: int = 0  # duplicate events that were dropped
    unknown: int = 0  # events with members that are not declared, which are left out
    late: int = 0  # rows of days that an as-of date was already built from
    delay_p50_s: float | None = None  # from an event until its row is committed, in the last minute; None: no rows
    delay_p99_s: float | None = None
    committed_version: int = -1  # Delta version of the last commit; -1: none
    committed_at: float = 0.0
    release: int | None = None  # of the real-time model that answers; None: the stream has no model
    cpu_s: float | None = None  # of the process and its children, measured every five seconds; None: not known
    last_error: str = ""  # the present error, or the last one since the last commit, as a sentence


def stream_folder(home: Path, name: str) -> Path:
    """The folder of a stream in the home folder."""
    return home / "streams" / name


def read_state(home: Path, name: str) -> StreamState | None:
    """The last state of a stream; None if it never ran here, or its file cannot be read."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        found = json.loads((stream_folder(home, name) / STATE).read_bytes())
        known = {each.name for each in fields(StreamState)}
        return StreamState(**{member: value for member, value in found.items() if member in known})
    return None


def write_state(home: Path, name: str, state: StreamState) -> None:
    """Replace the state of a stream; if the disk is full, the previous state stays."""
    folder = stream_folder(home, name)
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with replace_file(folder / STATE) as temporary:
            temporary.write_text(json.dumps(asdict(state)))


def is_running(home: Path, name: str) -> bool:
    """Tell if a process of this machine holds the stream's lock."""
    with suppress(OSError):
        return is_locked(stream_folder(home, name) / LOCK)
    return False
