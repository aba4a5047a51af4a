"""The state of a running stream, which its engine writes and monitoring reads, and its starts by the sensor.

The engine replaces the file `HOME/streams/<name>/STATE` once a second. If the lake is in a bucket, a thread also puts
the state into the folder `.state` of the lake every five seconds, where all machines read it.
"""

import json
import logging
import time
from collections import ChainMap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from forecache.base.errors import ForecacheError
from forecache.base.files import is_locked, replace_file
from forecache.base.folders import Folder, LocalFolder
from forecache.base.settings import Settings
from forecache.kit.installation import open_lake
from forecache.kit.lease import Lease
from forecache.kit.process.periodic import Backoff, PeriodicThread
from forecache.kit.process.wakes import STREAM_STATE

logger = logging.getLogger("forecache.stream")
STATE, _STARTS = "STATE", "STARTS"
FRESH_S = 15.0  # a state that is younger counts as that of a running stream, whose process may be on another machine
STABLE_S = 600.0  # seconds after which a start counts as successful
AGAIN_AND_AGAIN = 3  # so many unsuccessful starts in a row cause an alert
_BACKOFF = Backoff(10.0, 1800.0)
_LOOK_EVERY_S = 1.0
_NUM_LOOKS = round((STREAM_STATE.every_s + 3.0) / _LOOK_EVERY_S)
_PATIENCE_S = 3.0
"""A state is worth no longer wait for a bucket: monitoring shows the machine's own, and the engine puts the next."""


@dataclass
class StreamState:
    """Figures of a stream, counted since its engine started. Times are Unix times; 0: never."""

    pid: int = 0
    started_at: float = 0.0
    written_at: float = 0.0
    alive_at: float = 0.0  # when its process last put the state into the lake; 0: the lake is in no bucket
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
    cpu_s: float | None = None  # of the process and its children since then, every five seconds; None: not known
    last_error: str = ""  # the present error, or the last one since the last commit, as a sentence
    process: str = ""  # its host and pid

    @property
    def reported_at(self) -> float:
        """When its process last said anything."""
        return max(self.written_at, self.alive_at)

    def is_fresh(self, now: float) -> bool:
        """Return whether a process says that it runs, on any machine."""
        return not self.stopped_at and now - self.reported_at < FRESH_S


def stream_folder(home: Path, name: str) -> Path:
    return home / "streams" / name


def lease_name(name: str) -> str:
    """The name of the lease, and of the file lock in `HOME/locks`, that the process which runs a stream holds."""
    return f"streams/{name}"


def open_stream_state(settings: Settings, name: str, *, patience_s: float | None = _PATIENCE_S) -> Folder:
    """The folder that all machines see the state of a stream in; without a bucket, that of the home."""
    if not settings.lake_is_remote:
        return LocalFolder(stream_folder(settings.home_path, name))
    return open_lake(settings, below=f".state/streams/{name}", patience_s=patience_s)


def read_state(settings: Settings, name: str) -> StreamState | None:
    """The last state of a stream on any machine; None if it never ran, or nothing of it can be read.

    While a bucket does not answer, it is the last one on this machine.
    """
    found = [_read_state(lambda: LocalFolder(stream_folder(settings.home_path, name)))]
    if settings.lake_is_remote:
        found.append(read_shared_state(settings, name))
    return max(filter(None, found), key=lambda state: state.reported_at, default=None)


def read_shared_state(settings: Settings, name: str) -> StreamState | None:
    """The state that was put into the lake if that is in a bucket, else that of this machine; None as `read_state`."""
    return _read_state(lambda: open_stream_state(settings, name))


def is_reported(settings: Settings, *names: str) -> bool:
    """Watch the states in the lake, of a stream or its shards, until a process puts one of them there again.

    False if none does for some seconds, but for such that say that they ended.

    No clock is compared. For what is not to be done in vain if the clocks of two machines differ.
    """
    first = [read_shared_state(settings, name) for name in names]
    for _ in range(_NUM_LOOKS):  # counted, as a machine that stands still for seconds has seen nothing meanwhile
        time.sleep(_LOOK_EVERY_S)
        for before, name in zip(first, names, strict=True):
            found = read_shared_state(settings, name)
            if found and before and found.alive_at != before.alive_at and not found.stopped_at:
                return True
    return False


def _read_state(open_it: Callable[[], Folder]) -> StreamState | None:
    with suppress(ForecacheError, OSError, ValueError, TypeError, AttributeError):
        content = open_it().read(STATE)
        if content is not None:
            known = {each.name for each in fields(StreamState)}
            members = json.loads(content[0])
            return StreamState(**{member: value for member, value in members.items() if member in known})
    return None


def write_state(home: Path, name: str, state: StreamState) -> None:
    """Replace the state of a stream on this machine; if the disk is full, the previous state stays."""
    folder = stream_folder(home, name)
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with replace_file(folder / STATE) as temporary:
            temporary.write_text(json.dumps(asdict(state)))


@contextmanager
def share_state(settings: Settings, name: str, lease: Lease, read: Callable[[], StreamState]) -> Iterator[None]:
    """Put the state that `read` returns into the lake periodically, and once at the end, if the lake is in a bucket.

    Until this process has figures, it puts those of the process before it.
    """
    if not settings.lake_is_remote:
        yield
        return
    folder, before = open_stream_state(settings, name), read_state(settings, name)

    def put() -> None:
        lease.check()
        state = read()
        if not state.written_at and before is not None:
            state = replace(before, stopped_at=0.0)
        folder.write(STATE, json.dumps(asdict(replace(state, alive_at=time.time()))).encode())

    def report(error: Exception) -> None:
        logger.warning("Other machines do not see the state of the stream %s: %s", name, error)

    with PeriodicThread(STREAM_STATE, put, at_once=True, report=report, close_s=2 * _PATIENCE_S):
        yield
    with suppress(ForecacheError, OSError):
        put()


def merge_states(shards: Sequence[StreamState]) -> StreamState:
    """The state of a stream from those of all its shards: as old as the oldest one, and as late as the latest.

    It committed last when the shard did that waits longest, if one has a lag; and it runs since its first shard does.
    """
    cpu_s: dict[str, float] = {}  # of a process that runs several
    for each in shards:
        cpu_s[each.process] = max(cpu_s.get(each.process, 0.0), each.cpu_s or 0.0)
    sums = ("lag_events", "rows", "rows_per_s", "bad", "repeats", "unknown", "late")
    most = ("delay_p50_s", "delay_p99_s", "committed_version", "committed_at", "release")
    values: dict[str, Any] = {name: sum(getattr(each, name) for each in shards) for name in sums}
    values |= {name: max(filter(_is_known, (getattr(each, name) for each in shards)), default=None) for name in most}
    values |= {name: min(getattr(each, name) for each in shards) for name in ("started_at", "written_at", "alive_at")}
    values["committed_at"] = min(
        (each.committed_at for each in shards if each.lag_events), default=values["committed_at"]
    )
    values["stopped_at"] = max(each.stopped_at for each in shards) if all(each.stopped_at for each in shards) else 0.0
    for name in ("offsets", "end_offsets"):
        values[name] = dict(ChainMap(*(getattr(each, name) for each in shards)))
    error = next((each.last_error for each in shards if each.last_error), "")
    return replace(shards[0], **values, cpu_s=sum(cpu_s.values()), last_error=error)


def _is_known(value: float | None) -> bool:
    return value is not None


def is_running(home: Path, name: str) -> bool:
    """Return whether a process of this machine runs the stream or one of its shards, or waits to run it."""
    path = home / "locks" / lease_name(name)
    with suppress(OSError):
        return any(is_locked(each) for each in (path, *path.parent.glob(f"{name}.shards/*")))
    return False


@dataclass(frozen=True)
class Starts:
    """A stream's starts by the sensor; one that fails at once is restarted with growing pauses."""

    total: int = 0
    in_a_row: int = 0  # last starts after which it ran for less than `STABLE_S`
    last_at: float = 0.0  # Unix time; 0: never

    @property
    def pause_s(self) -> float:
        """Least seconds from the last start to the next: 0, 10, 20, 40, ... up to half an hour."""
        return _BACKOFF.pause_s(self.in_a_row) if self.in_a_row else 0.0

    @property
    def next_at(self) -> float:
        """Unix time before which it is not started again."""
        return self.last_at + self.pause_s

    @property
    def is_failing_repeatedly(self) -> bool:
        return self.in_a_row >= AGAIN_AND_AGAIN

    def reset_if_stable(self, state: StreamState | None) -> "Starts":
        """Return the starts without earlier failures if the stream has run for `STABLE_S` since the last start."""
        has_lasted = state is not None and self.last_at > 0 and state.written_at - self.last_at >= STABLE_S
        return Starts(self.total, 0, self.last_at) if has_lasted else self

    def with_start(self, at: float) -> "Starts":
        return Starts(self.total + 1, self.in_a_row + 1, at)


def read_starts(settings: Settings, name: str) -> Starts:
    """Read the starts of a stream on all machines; none if there is no record, or it cannot be read."""
    with suppress(ForecacheError, OSError):
        return read_tagged_starts(settings, name)[0]
    return Starts()


def read_tagged_starts(settings: Settings, name: str) -> tuple[Starts, Any]:
    """Read the starts and the tag of their file, for `swap_starts`; a file that is damaged counts as none."""
    found = open_stream_state(settings, name).read(_STARTS)
    if found is None:
        return Starts(), None
    with suppress(ValueError, TypeError):
        return Starts(**json.loads(found[0])), found[1]
    return Starts(), found[1]


def swap_starts(settings: Settings, name: str, starts: Starts, tag: Any) -> bool:
    """Write the starts if nobody has written them since they were read; returns whether they were written."""
    content = json.dumps(asdict(starts)).encode()
    return open_stream_state(settings, name).swap(_STARTS, content, tag) is not None
