"""Figures of a running engine: counts, delays, rates and processor time, written once a second."""

import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from forecache.base.stream_state import StreamState, write_state


def tree_cpu_s(pid: int) -> float:
    """Return the CPU seconds (user and system) of a process and its descendants since their start.

    A child that has ended still counts: the kernel adds its time to its parent's when the parent has waited for it. So
    the difference of two calls is the time that the tree used in between. psutil.NoSuchProcess if it has ended.
    """
    import psutil

    root = psutil.Process(pid)
    total = 0.0
    # Children first: one that ends meanwhile is then missing, and not counted twice (itself and in its parent).
    for each in (*reversed(root.children(recursive=True)), root):
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return float(total)


_WINDOW_S = 60.0
_KEPT_DELAYS = 200
_EVERY_S = 1.0
_PROCESSOR_EVERY_S = 5.0
"""Finding child processes reads every process of the machine: some milliseconds if there are hundreds."""


class StreamFigures:
    """Figures of one process in a `state` that is written; any thread may add to them."""

    def __init__(self, home: Path, name: str, *, engine: str, freshness: str) -> None:
        self._home, self._name = home, name
        self.state = StreamState(pid=os.getpid(), started_at=time.time(), engine=engine, freshness=freshness)
        # Of each commit: when, how many rows, and some of their delays.
        self._commits: deque[tuple[float, int, np.ndarray]] = deque()
        self._began, self._write_at, self._look_at = time.monotonic(), 0.0, 0.0

    def count_commit(self, version: int, offsets: Mapping[int, int], arrived_us: np.ndarray) -> None:
        """Count a commit, given the Kafka timestamps of its messages in microseconds since 1970."""
        now, state = time.time(), self.state
        state.rows += len(arrived_us)
        state.committed_version, state.committed_at = version, now
        state.offsets = {str(partition): offset for partition, offset in sorted(offsets.items())}
        step = max(1, len(arrived_us) // _KEPT_DELAYS)
        self._commits.append((time.monotonic(), len(arrived_us), now - arrived_us[::step] / 1e6))

    def write(self, ends: Mapping[int, int] | None = None, *, now: bool = False) -> None:
        """Write the state if a second has passed since the last time, or if `now`."""
        at = time.monotonic()
        if at < self._write_at and not now:
            return
        self._write_at = at + _EVERY_S
        state = self.state
        if ends is not None:
            state.end_offsets = {str(partition): offset for partition, offset in sorted(ends.items())}
            state.lag_events = sum(
                max(0, offset - state.offsets.get(partition, 0)) for partition, offset in state.end_offsets.items()
            )
        state.written_at = time.time()
        while self._commits and self._commits[0][0] < at - _WINDOW_S:
            self._commits.popleft()
        commits = list(self._commits)
        lasted = min(_WINDOW_S, max(_EVERY_S, at - self._began))
        state.rows_per_s = round(sum(rows for _, rows, _ in commits) / lasted, 3)
        state.delay_p50_s, state.delay_p99_s = _percentiles([delays for _, _, delays in commits])
        if at >= self._look_at or now:
            self._look_at = at + _PROCESSOR_EVERY_S
            # The time of a child that ended and was not waited for is lost: never report less than before.
            state.cpu_s = max(state.cpu_s or 0.0, tree_cpu_s(os.getpid()))
        write_state(self._home, self._name, state)


def _percentiles(delays: Sequence[np.ndarray]) -> tuple[float | None, float | None]:
    together = np.concatenate(delays) if delays else np.zeros(0)
    if not len(together):
        return None, None
    middle, high = np.percentile(together, (50, 99))
    return round(float(middle), 4), round(float(high), 4)
