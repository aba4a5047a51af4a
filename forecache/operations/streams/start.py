"""Starting streams that do not run, detached, each at most once, with growing pauses where one dies again and again."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from forecache.files import try_lock
from forecache.monitoring.streams.overview import stream_now
from forecache.monitoring.streams.starts import write_starts
from forecache.pipeline import Stream
from forecache.settings import Settings
from forecache.stream_state import stream_folder

_log = logging.getLogger(__name__)
_START = "START"
_LOG_BYTES = 16 << 20
"""A log that is longer is put aside at the next start, in the place of the one before."""


@dataclass(frozen=True)
class Kept:
    """What was done about a stream.

    Attributes:
        did: "started": now; "starting": it was started before and has not said anything yet; "waits": it died, and is
            started again after a pause; "runs": nothing.
        wait_s: Seconds until it is started again.
    """

    stream: str
    did: Literal["runs", "started", "starting", "waits"]
    wait_s: float = 0.0


def keep_running(settings: Settings, streams: Iterable[Stream], *, command: Sequence[str] | None = None) -> list[Kept]:
    """Start those that do not run, unless they died so lately that a pause is due.

    Any number of processes may do so at the same time: whoever starts a stream holds a lock that its process inherits
    and keeps until it ends, and a stream itself runs once.

    Args:
        command: What is started, the name is appended; None: `forecache stream`.
    """
    return [_kept(settings, stream, command) for stream in streams]


def _kept(settings: Settings, stream: Stream, command: Sequence[str] | None) -> Kept:
    folder, name = stream_folder(settings.home_path, stream.name), stream.name
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / _START, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        locked = try_lock(descriptor)
        # Looked at behind the lock: another sensor may have started it a moment ago.
        found = stream_now(settings, stream)
        if found.is_running:
            return Kept(name, "runs")
        if not locked:
            return Kept(name, "starting")
        now = time.time()
        if now < found.starts.next_at:
            return Kept(name, "waits", found.starts.next_at - now)
        # Recorded first: killed in between, it only waits longer than it had to.
        write_starts(settings.home_path, name, found.starts.started(now))
        _start(settings, name, command, descriptor)
        return Kept(name, "started")
    finally:
        os.close(descriptor)


def _start(settings: Settings, name: str, command: Sequence[str] | None, descriptor: int) -> None:
    """A process in a session of its own, which outlives this one; what it says is appended to the stream's log."""
    chosen = list(command or (sys.executable, "-m", "forecache.cli.main", "stream"))
    environment = {**os.environ, "FORECACHE_HOME": str(settings.home_path), "FORECACHE_PROJECT": settings.project}
    path = stream_folder(settings.home_path, name) / "log"
    if path.is_file() and path.stat().st_size > _LOG_BYTES:
        path.replace(path.with_name("log.1"))
    with path.open("ab") as log:
        process = subprocess.Popen(
            [*chosen, name], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, pass_fds=(descriptor,),
        )  # fmt: skip
    # Waited for, so that the system forgets it when it ends.
    threading.Thread(target=process.wait, name=f"forecache-stream-{name}", daemon=True).start()
    _log.warning("The stream %s did not run and was started as process %s.", name, process.pid)
