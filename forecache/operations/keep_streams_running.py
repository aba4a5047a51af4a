"""Start streams that do not run, detached, each at most once, with growing pauses if one dies repeatedly.

Starts are counted for all machines that share a lake in a bucket.
"""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from forecache.base.files import try_lock
from forecache.base.settings import Settings
from forecache.declare import Stream
from forecache.stream.state import read_tagged_starts, stream_folder, swap_starts
from forecache.stream.status import read_stream_status

_log = logging.getLogger(__name__)
_START = "START"
_ELSEWHERE_S = 30.0
"""A process that was started on another machine has so long to take the stream's lease."""
_LOG_BYTES = 16 << 20
"""A longer log is renamed at the next start and replaces the previous one."""


@dataclass(frozen=True)
class StartResult:
    """The result of the start of one stream."""

    stream: str
    # starting: it was started before and has not reported yet; waits: it died, and is started again after a pause
    did: Literal["runs", "started", "starting", "waits"]
    wait_s: float = 0.0  # seconds until it is started again


def keep_running(
    settings: Settings, streams: Iterable[Stream], *, command: Sequence[str] | None = None
) -> list[StartResult]:
    """Start the streams that do not run, unless they died so recently that a pause is due.

    Any number of processes of any machines may call it at the same time: on one machine, the starting process holds a
    lock that the stream's process inherits and keeps until it ends; of several machines, the one that counts the start
    makes it; and a stream itself runs once.

    Args:
        command: Command to start, to which the stream's name is appended; None: `forecache stream`.
    """
    return [_start_if_needed(settings, stream, command) for stream in streams]


def _start_if_needed(settings: Settings, stream: Stream, command: Sequence[str] | None) -> StartResult:
    folder, name = stream_folder(settings.home_path, stream.name), stream.name
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / _START, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        locked = try_lock(descriptor)
        # Read under the lock: another sensor may have started it a moment ago.
        found = read_stream_status(settings, stream, watches=True)
        if found.is_running:
            return StartResult(name, "runs")
        if not locked:
            return StartResult(name, "starting")
        now, (starts, tag) = time.time(), read_tagged_starts(settings, name)
        starts = starts.reset_if_stable(found.state)
        next_at = max(starts.next_at, starts.last_at + _ELSEWHERE_S if settings.lake_is_remote else 0.0)
        if now < next_at:
            return StartResult(name, "waits", next_at - now)
        # Recorded first: a kill in between only makes the next start wait longer than needed.
        if not swap_starts(settings, name, starts.with_start(now), tag):
            return StartResult(name, "starting")
        _start_process(settings, name, command, descriptor)
        return StartResult(name, "started")
    finally:
        os.close(descriptor)


def _start_process(settings: Settings, name: str, command: Sequence[str] | None, descriptor: int) -> None:
    """Start a process in its own session, which outlives this one; its output is appended to the stream's log."""
    # Not as a standby: if another machine started it, too, the process that came second ends.
    chosen = list(command or (sys.executable, "-m", "forecache.cli.main", "stream", "--no-standby"))
    environment = {**os.environ, **settings.process_variables()}
    path = stream_folder(settings.home_path, name) / "log"
    if path.is_file() and path.stat().st_size > _LOG_BYTES:
        path.replace(path.with_name("log.1"))
    with path.open("ab") as log:
        process = subprocess.Popen(
            [*chosen, name], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, pass_fds=(descriptor,),
        )  # fmt: skip
    # Waited for, so that it does not stay a zombie when it ends.
    threading.Thread(target=process.wait, name=f"forecache-stream-{name}", daemon=True).start()
    _log.warning("The stream %s did not run and was started as process %s.", name, process.pid)
