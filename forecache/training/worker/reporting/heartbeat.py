"""The progress of a run, which survives SIGKILL: step and time in a memory-mapped file, written after each step."""

import mmap
import struct
import time
from pathlib import Path

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
