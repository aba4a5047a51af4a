"""Estimates of the time that a request has waited in its socket for the event loop's thread.

A handler's clock starts when the loop reads a request. Before that, the request waited in the socket: not at all if the
loop was asleep, and at most since the loop last read if it was busy.
"""

import asyncio
from time import perf_counter_ns

_AT_ONCE_NS = 50_000
"""A loop that reads again so soon after the end of an iteration was not asleep in between."""


class SocketWaitEstimator:
    """Times the iterations of a loop in which something is read."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._began = self._ended = self._before = 0
        self._is_open = False

    def note_read(self) -> int:
        """Note that something is read now; returns the time, in nanoseconds of `perf_counter_ns`."""
        now = perf_counter_ns()
        if not self._is_open:
            self._is_open = True
            self._before = now - self._began if now - self._ended < _AT_ONCE_NS else 0
            self._began = now
            self._loop.call_soon(self._end_iteration)
        return now

    def max_wait_ns(self, now: int) -> int:
        """Longest time, in nanoseconds, that data read in this iteration can have waited."""
        return self._before + now - self._began

    def mean_wait_ns(self, now: int) -> int:
        """Mean of that time, if data arrives at any moment since the loop read before."""
        return self._before // 2 + now - self._began

    def _end_iteration(self) -> None:
        self._is_open, self._ended = False, perf_counter_ns()
