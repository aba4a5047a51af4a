"""Logged answers for tests: written to a spool, committed here or by a process that may be killed, and read back."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forecache.base.errors import NotFoundError
from forecache.base.settings import Settings
from forecache.realtime.log.commit_segments import commit_ready
from forecache.realtime.log.read import read_log
from forecache.realtime.log.record import pack_answer
from forecache.realtime.log.spool_stream import SpoolStream, encode_frame


def an_answer(request_id: str, *, arrived_us: int, features: bytes = b"") -> bytes:
    """The bytes of a logged answer."""
    return pack_answer(
        arrived_us=arrived_us, release=1, model_version=1, items=1, deadline_ms=50.0, times_us=(1, 2, 3, 4, 5, 6, 21),
        late=False, request_id=request_id.encode(), key=b"1", request=b'{"household_id":1}', features=features or None,
        scores=None, answered_by=b"default", fallback_reason=b"", variant=b"current", stores=b"",
        warnings=b"", item_answered_by=b"", ranking=b"",
        live=b"",
    )  # fmt: skip


def spool(settings: Settings, segments: list[list[str]], *, arrived_us: int, name: str = "search") -> SpoolStream:
    """A stream with these requests in its segments; its writer is alive until it is closed."""
    stream, first = SpoolStream(settings.request_log_path / name, replica="here:8080#1", most_age_s=60.0), 0
    for ids in segments:
        frames = [encode_frame(an_answer(each, arrived_us=arrived_us), first + place) for place, each in enumerate(ids)]
        assert stream.write(memoryview(b"".join(frames)), len(ids), first) == len(ids)
        stream.close_segment()
        first += len(ids)
    return stream


def commit_all(settings: Settings, name: str = "search") -> int:
    """Commit what is ready; how many rows."""
    rows = 0
    while (done := commit_ready(settings, name)).segments:
        rows += done.rows
    return rows


def logged(settings: Settings, name: str = "search", **asked: Any) -> list[dict[str, Any]]:
    """The rows of a log; none where there is no table."""
    return list(_rows(settings, name, **asked))


def _rows(settings: Settings, name: str, **asked: Any) -> Iterator[dict[str, Any]]:
    try:
        for batch in read_log(settings, name, **asked):
            yield from batch.to_pylist()
    except NotFoundError:
        return


_COMMITTER = """
import os, signal, sys
from forecache.base import steps
from forecache.realtime.log.commit_segments import commit_ready
from forecache.base.settings import load_settings

def at(step):
    if step == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)

steps.log_step.on_step = steps.lake_step.on_step = at
while commit_ready(load_settings(home=sys.argv[1], lake=sys.argv[2]), "search").segments:
    pass
"""


def committer(home: Path, *, lake: str = "", kill_at: str = "") -> "subprocess.Popen[str]":
    """A process that commits what is ready; with `kill_at` it is killed at its first step of that name."""
    return subprocess.Popen([sys.executable, "-c", _COMMITTER, str(home), lake, kill_at], text=True)


_WRITER = """
import os, signal, sys
from forecache.base import steps
from forecache.base.settings import load_settings
from log_support import spool

def at(step):
    if step == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

steps.log_step.on_step = at
spool(load_settings(home=sys.argv[1]), [sys.argv[4:]], arrived_us=int(sys.argv[3]))
"""


def writer(home: Path, ids: list[str], *, arrived_us: int, kill_at: str) -> "subprocess.Popen[str]":
    """A process that writes these requests to a segment of the spool, and is killed at the step of that name."""
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(home), kill_at, str(arrived_us), *ids],
        env={**os.environ, "PYTHONPATH": paths}, text=True,
    )  # fmt: skip


def killed(process: "subprocess.Popen[str]") -> bool:
    """Whether a process ended by SIGKILL."""
    return process.wait(timeout=120) == -signal.SIGKILL
