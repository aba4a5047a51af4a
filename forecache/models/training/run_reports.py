"""Reports of a run to its parent: events, one JSON object per line of the metrics file, and the heartbeat.

The heartbeat has step and time in a memory-mapped file, which survives SIGKILL. Rank 0 writes both.
"""

import json
import mmap
import struct
import time
from pathlib import Path
from typing import Any

from forecache.models.training.spec import METRICS_FILE, TrainingSpec


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
