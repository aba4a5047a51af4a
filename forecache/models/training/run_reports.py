"""Reports of a run to its parent: events, one JSON object per line of the metrics file, and the heartbeat.

The heartbeat has step and time in a memory-mapped file, which survives SIGKILL. Rank 0 writes both.
"""

import json
import mmap
import os
import struct
import time
import traceback
from pathlib import Path
from typing import Any

from forecache.base.errors import ForecacheError
from forecache.models.training.spec import ERROR_FILE, METRICS_FILE, TrainingSpec


class Events:
    """Appends events to the run's metrics file, which the parent follows."""

    def __init__(self, spec: TrainingSpec) -> None:
        self.path = spec.folder / METRICS_FILE

    def __call__(self, event: str, **values: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"event": event, "time": time.time(), **values}) + "\n")


def report_nothing(event: str, **values: Any) -> None:
    """Reports nothing, for ranks other than 0."""


_LAYOUT = struct.Struct("<qd")


class Heartbeat:
    """Written by rank 0; `before` is the (step, time) that the previous attempt left, (0, 0.0) in the first."""

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            if path.stat().st_size < _LAYOUT.size:
                file.truncate(_LAYOUT.size)
            self._map = mmap.mmap(file.fileno(), _LAYOUT.size)
        self.before: tuple[int, float] = _LAYOUT.unpack_from(self._map)

    def beat(self, step: int) -> None:
        _LAYOUT.pack_into(self._map, 0, step, time.time())


def write_error(spec: TrainingSpec, error: Exception) -> None:
    """Write `error.json` for the parent, atomically; the first rank to fail wins."""
    description = {
        "type": type(error).__name__,
        "message": error.message if isinstance(error, ForecacheError) else str(error),
        "remedy": error.remedy if isinstance(error, ForecacheError) else "",
        "traceback": traceback.format_exc(),
        "rank": int(os.environ["RANK"]),
    }
    unfinished = spec.folder / f".{ERROR_FILE}.{os.getpid()}"
    unfinished.write_text(json.dumps(description))
    try:
        os.link(unfinished, spec.folder / ERROR_FILE)
    except FileExistsError:
        pass
    finally:
        unfinished.unlink()
