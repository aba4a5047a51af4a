"""The stages of a contender's process: seconds, CPU of all its processes, and the most memory that they hold."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from _common.memory import proportional_bytes, watching

Figures = dict[str, float]
_SAMPLE_S = 0.25


class Stages:
    """Records one stage after the other; several parts of the same name add up."""

    def __init__(self) -> None:
        self.found: dict[str, Figures] = {}
        self._process, self._peak = psutil.Process(), 0
        self._began = (time.perf_counter() - (time.time() - self._process.create_time()), 0.0)

    def end(self, name: str) -> None:
        """End a stage, which began where the last one ended, the first one with the process."""
        seconds, cpu_s = self._now()
        figures = self.found.setdefault(name, {"seconds": 0.0, "cpu_s": 0.0, "peak_bytes": 0.0})
        figures["seconds"] += seconds - self._began[0]
        figures["cpu_s"] += cpu_s - self._began[1]
        self._look()
        figures["peak_bytes"] = max(figures["peak_bytes"], float(self._peak))
        self._began, self._peak = (seconds, cpu_s), 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at the memory while the block runs."""
        with watching(self._look, every_s=_SAMPLE_S):
            yield

    def _look(self) -> None:
        alive = [self._process, *self._process.children(recursive=True)]
        self._peak = max(self._peak, sum(map(proportional_bytes, alive)))

    def _now(self) -> tuple[float, float]:
        cpu_s = 0.0
        for each in [self._process, *self._process.children(recursive=True)]:
            try:
                times = each.cpu_times()
            except psutil.Error:
                continue
            cpu_s += times.user + times.system + times.children_user + times.children_system
        return time.perf_counter(), cpu_s
